"""What `register` is given, checked before any work begins: one sentence for whatever can't be used."""

from collections.abc import Iterable, Mapping
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike

from RegCore.registration.pair import PairSide
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.names import nearest
from RegCore.space.transforms import AffineTransform, DisplacementField, Transform
from RegCore.space.volume import Volume, check_image, check_labels, common_labels, extent

WANTED = {float: "a number", int: "a whole number", str: "a word", dict: "a loss", bool: "true or false"}


def check_types(
    images: tuple, labels: tuple, masks: tuple, initial: object, settings: object, seed: object
) -> None:
    """Whether everything has the type it should have, before anything is asked of it.

    Args:
        images: two, of the fixed and of the moving side.
        labels: segmentations, alike; None where there is none.
        masks: alike.
        initial: a transform, a word or None.
        settings: of the method, or None.
        seed: of the random numbers.

    Raises:
        InputError: something of another type.
    """
    for what, pair in (("volume", images), ("segmentation", labels), ("mask", masks)):
        for side, given in zip(("fixed", "moving"), pair, strict=True):
            if not isinstance(given, Volume) and (given is not None or pair is images):
                wanted = "a Volume, such as RegCore.load gives"
                raise InputError(f"the {side} {what} is {_a(given)}, expected {wanted}")
    if initial is not None and not isinstance(initial, AffineTransform | DisplacementField | str):
        wanted = "a transform, such as RegCore.load gives, or the word 'centres'"
        raise InputError(f"the initial transform is {_a(initial)}, expected {wanted}")
    if settings is not None and not isinstance(settings, Mapping):
        raise InputError(f"the settings are {_a(settings)}, expected a dict of names and values")
    if not isinstance(seed, Integral) or seed < 0:
        raise InputError(f"the seed is {seed!r}, expected a whole number of at least 0")


def _a(thing: object) -> str:
    return "None" if thing is None else f"of type {type(thing).__name__}"


def check_method(method: object, known: Iterable[str]) -> str:
    """The name of a method.

    Raises:
        InputError: there is no such method; the sentence proposes the nearest name.
    """
    if not isinstance(method, str) or method not in known:
        hint = nearest(method, known)
        raise InputError(f"unknown method {method!r}; it is one of {', '.join(known)}{hint}")
    return method


def take_settings(given: Mapping, kinds: Mapping[str, type], method: str) -> dict:
    """The settings of a method, each of the right type.

    Args:
        given: names and values. A loss may be given by its name alone; a whole number will do where a number
            is expected.
        kinds: the type of each setting that the method has.
        method: its name, for messages.

    Returns:
        What was given, with these two conversions.

    Raises:
        InputError: an unknown name, with the nearest one, or a value of another type.
    """
    taken = {}
    for name, value in given.items():
        if name not in kinds:
            hint = nearest(name, kinds)
            raise InputError(f"method {method} has no setting {name!r}; it has {', '.join(kinds)}{hint}")
        kind = kinds[name]
        if kind is dict and isinstance(value, str):
            value = {"name": value}
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or isinstance(value, bool) and kind is not bool:
            wanted = WANTED[kind]
            raise InputError(f"setting {name} of method {method} is {value!r}, expected {wanted}")
        taken[name] = value
    return taken


def check_not_negative(name: str, value: float) -> None:
    """Check that a setting is a finite number of at least 0.

    Raises:
        InputError: it is not.
    """
    if not 0 <= value < float("inf"):
        raise InputError(f"setting {name} is {value}, expected a number of at least 0")


def check_pair(fixed: PairSide, moving: PairSide) -> None:
    """Check that every volume is fit for its role, by itself and with the others.

    Raises:
        InputError: one is not.
    """
    for name, side in (("fixed", fixed), ("moving", moving)):
        check_image(side.image, f"the {name} volume")
        if side.labels is not None:
            check_labels(side.labels, f"the {name} segmentation")
    if (fixed.labels is None) != (moving.labels is None):
        have, lack = ("fixed", "moving") if moving.labels is None else ("moving", "fixed")
        raise InputError(f"a {have} segmentation was given without a {lack} one; give both or none")
    if fixed.labels is not None and moving.labels is not None:
        common_labels(fixed.labels, moving.labels, "the fixed segmentation", "the moving segmentation")
    for name, side in (("fixed", fixed), ("moving", moving)):
        _check_place(side.labels, side.image, f"the {name} segmentation", f"the {name} volume")
        _check_place(side.mask, side.image, f"the {name} mask", f"the {name} volume")


def _check_place(part: Volume | None, image: Volume, name: str, image_name: str) -> None:
    """A segmentation or mask must mark something, and in its image."""
    if part is None:
        return
    marked = extent(part)
    if marked is None:
        raise InputError(f"{name} is empty: every voxel is 0, but some must say where the image counts")
    if not marked.overlaps(image.geometry):
        raise InputError(f"{name}: what it marks does not overlap {image_name} in space")


def check_start(fixed: Geometry, moving: Geometry, initial: Transform | str | None) -> Transform | None:
    """The transform to start from.

    Args:
        fixed: the grid of the fixed image.
        moving: the grid of the moving image.
        initial: fixed -> moving, RAS mm; the word ``centres`` for grid centre on grid centre; or None, which
            stays None: images whose headers put them apart are laid centre on centre, see `apart`.

    Raises:
        InputError: the images do not overlap through the transform; another word.
    """
    if isinstance(initial, str):
        if initial != "centres":
            raise InputError(f"the initial transform is {initial!r}; as a word only 'centres' is known")
        matrix = np.eye(4)
        matrix[:3, 3] = moving.centre - fixed.centre
        return AffineTransform(matrix)
    if initial is not None and not fixed.overlaps(moving, initial.map):
        raise InputError("with the initial transform the two volumes do not overlap in space")
    return initial


def apart(fixed: Geometry, moving: Geometry) -> str | None:
    """One sentence about images that do not overlap by their headers; None where they do."""
    if fixed.overlaps(moving):
        return None
    distance = float(np.linalg.norm(moving.centre - fixed.centre))
    return (
        f"the positions in the files put the two volumes apart (centres {distance:.0f} mm from each other), "
        "so the registration did not begin from them but from the centres of the volumes"
    )


def as_mask(mask: Volume | None) -> Volume | None:
    """A mask as a label map of 0 and 1, ``(I, J, K)``: 1 where any of its channels is not 0."""
    if mask is None:
        return None
    array = mask.array if mask.array.ndim == 3 else mask.array.any(-1)
    return Volume((array != 0).astype(np.uint8), mask.geometry, "labels")


def check_landmarks(landmarks: ArrayLike | None) -> np.ndarray | None:
    """Landmarks as ``(N, 6)`` RAS mm, fixed and moving place of each.

    Raises:
        InputError: they are anything else.
    """
    if landmarks is None:
        return None
    try:
        array = np.asarray(landmarks, float)
    except (TypeError, ValueError) as error:
        raise InputError(f"landmarks are rows of 6 numbers, not {_a(landmarks)} ({error})") from error
    if array.ndim != 2 or array.shape[1] != 6 or not len(array):
        raise InputError(f"landmarks are rows of 6 numbers (fixed x y z, moving x y z), not {array.shape}")
    if not np.isfinite(array).all():
        raise InputError("landmarks must be finite numbers, but some are NaN or infinite")
    return array
