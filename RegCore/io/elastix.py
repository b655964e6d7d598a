"""Parameter files of elastix, TransformParameters.0.txt, with the chain of those that they begin from."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from RegCore.io import itk
from RegCore.io.files import shorten
from RegCore.io.splines import b_spline, composed
from RegCore.space.geometry import InputError
from RegCore.space.transforms import Transform

LINEAR = {  # elastix's names: those of ITK, and the numbers of parameters
    "TranslationTransform": ("TranslationTransform", 3),
    "EulerTransform": ("Euler3DTransform", 6),
    "SimilarityTransform": ("Similarity3DTransform", 7),
    "AffineTransform": ("AffineTransform", 12),
}
SPLINES = ("BSplineTransform", "RecursiveBSplineTransform")
INITIAL = ("InitialTransformParameterFileName", "InitialTransformParametersFileName")
MOST_FILES = 20
Parameters = Mapping[str, list[str]]


def read(path: Path) -> Transform:
    """The transform of a text file of ITK or of elastix.

    Raises:
        InputError: the file is neither, or of a kind that can't be read.
    """
    with open(path, "rb") as file:
        head = file.read(len(itk.TEXT_HEAD))
    return itk.read_text(path) if head.startswith(b"#Insight") else _chain(path, ())


def _chain(path: Path, before: tuple[Path, ...]) -> Transform:
    """The transform of a file after those that it begins from: x -> T1(T0(x))."""
    if path in before or len(before) >= MOST_FILES:
        raise InputError("the chain of initial transforms has no end")
    text = path.read_bytes().decode("utf-8", errors="replace")
    parameters = _parsed(text)
    own = _transform(parameters)
    initial = next((parameters[key][0] for key in INITIAL if parameters.get(key)), "NoInitialTransform")
    if initial == "NoInitialTransform":
        return own
    if parameters.get("HowToCombineTransforms", ["Compose"]) != ["Compose"]:
        raise InputError("transforms are combined by Compose only, not by adding them")
    name = re.split(r"[/\\]", initial)[-1]  # elastix writes where it was on the computer that it ran on
    if not name or not (path.parent / name).is_file():
        raise InputError(f"the initial transform {shorten(name)} is missing in the folder of the file")
    try:
        return composed(own, _chain(path.parent / name, (*before, path)))
    except InputError as error:
        raise InputError(f"{shorten(name)}: {error}") from None


def _parsed(text: str) -> dict[str, list[str]]:
    """The words of each line (Name word word "word in quotes")."""
    found: dict[str, list[str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = re.sub(r"//.*", "", line).strip()
        if not line:
            continue
        entry = re.fullmatch(r"\(\s*(\w+)\s+(.*?)\s*\)", line)
        if entry is None:
            if not found:
                raise InputError("not a transform of ITK or elastix")
            raise InputError(f"line {number} is damaged: {shorten(line)!r}")
        found[entry[1]] = [quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|(\S+)', entry[2])]
    return found


def _numbers(parameters: Parameters, key: str, count: int | None = None) -> np.ndarray:
    words = parameters.get(key, [])
    try:
        values = np.array([float(word) for word in words])
    except ValueError:
        raise InputError(f"{key} must be numbers") from None
    if count is not None and len(values) != count:
        raise InputError(f"{key} must be {count} numbers, but there are {len(values)}")
    return values


def _transform(parameters: Parameters) -> Transform:
    """The transform of one file, without that which it begins from."""
    kind = (parameters.get("Transform") or [""])[0]
    for key in ("FixedImageDimension", "MovingImageDimension"):
        if parameters.get(key, ["3"]) != ["3"]:
            raise InputError(f"a transform of 3-D space was expected, but {key} is {parameters[key]}")
    if parameters.get("UseBinaryFormatForTransformationParameters", ["false"]) != ["false"]:
        raise InputError("the parameters must stand in the file itself, not in a binary one")
    if kind in LINEAR:
        name, count = LINEAR[kind]
        fixed = np.zeros(0) if count == 3 else _numbers(parameters, "CenterOfRotationPoint", 3)
        if count == 6:
            fixed = np.append(fixed, parameters.get("ComputeZYX", ["false"]) == ["true"])
        values = _numbers(parameters, "TransformParameters", count)
        return itk.from_parameters(f"{name}_double_3_3", values, fixed)
    if kind not in SPLINES:
        raise InputError(f"transforms of elastix of the kind {shorten(kind)!r} can't be read")
    order, cyclic = (
        parameters.get(k, [w])
        for k, w in (("BSplineTransformSplineOrder", "3"), ("UseCyclicTransform", "false"))
    )
    if order not in (["1"], ["2"], ["3"]) or cyclic != ["false"]:
        raise InputError("B-splines of order 1, 2 or 3 that are not cyclic were expected")
    return b_spline(_numbers(parameters, "TransformParameters"), _grid(parameters), int(order[0]))


def _grid(parameters: Parameters) -> np.ndarray:
    """Size, origin, spacing and direction of the control points as ITK lists them."""
    size, spacing = _numbers(parameters, "GridSize", 3), _numbers(parameters, "GridSpacing", 3)
    direction = np.eye(3)
    if "GridDirection" in parameters:
        direction = _numbers(parameters, "GridDirection", 9).reshape(3, 3).T  # column after column
    index = _numbers(parameters, "GridIndex", 3) if "GridIndex" in parameters else np.zeros(3)
    origin = _numbers(parameters, "GridOrigin", 3) + direction @ (spacing * index)
    return np.concatenate([size, origin, spacing, direction.ravel()])
