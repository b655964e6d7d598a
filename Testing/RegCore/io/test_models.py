"""Models through transforms: points where Slicer has them, all else as it was, and what is refused."""

import numpy as np
import pytest

from RegCore.cli import main
from RegCore.io import save
from RegCore.io.models import transform_model
from RegCore.space.geometry import InputError
from Testing.RegCore.grids import OBLIQUE, rough_field, tilted_affine

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed")
vtk = pytest.importorskip("vtk")
from vtk.util.numpy_support import vtk_to_numpy  # noqa: E402

ENDINGS = ("vtk", "vtp", "stl", "ply")


def surface():
    """A small ellipsoid away from the origin, with a number for each point."""
    source = vtk.vtkSphereSource()
    source.SetThetaResolution(7)
    source.SetPhiResolution(6)
    source.SetCenter(5, -3, 2)
    source.SetRadius(11)
    source.Update()
    mesh = source.GetOutput()
    values = vtk.vtkFloatArray()
    values.SetName("thickness")
    for n in range(mesh.GetNumberOfPoints()):
        values.InsertNextValue(n / 7)
    mesh.GetPointData().AddArray(values)
    return mesh


def by_slicer(path):
    """A model as Slicer's storage node reads it."""
    scene, node = slicer.vtkMRMLScene(), slicer.vtkMRMLModelNode()
    scene.AddNode(node)
    storage = slicer.vtkMRMLModelStorageNode()
    scene.AddNode(storage)
    storage.SetFileName(str(path))
    assert storage.ReadData(node)
    return node.GetPolyData()


def written(path, space: str, packed: bool):
    scene, node = slicer.vtkMRMLScene(), slicer.vtkMRMLModelNode()
    scene.AddNode(node)
    node.SetAndObservePolyData(surface())
    storage = slicer.vtkMRMLModelStorageNode()
    scene.AddNode(storage)
    kinds = slicer.vtkMRMLStorageNode
    storage.SetCoordinateSystem(kinds.CoordinateSystemRAS if space == "RAS" else kinds.CoordinateSystemLPS)
    storage.SetUseCompression(packed)
    storage.SetFileName(str(path))
    assert storage.WriteData(node)
    return path


def points_of(mesh) -> np.ndarray:
    return vtk_to_numpy(mesh.GetPoints().GetData()).astype(float)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("space", ["RAS", "LPS"])
@pytest.mark.parametrize("packed", [False, True])
def test_points_go_where_the_transform_takes_them_and_all_else_stays(tmp_path, ending, space, packed):
    path, out = written(tmp_path / f"m.{ending}", space, packed), tmp_path / f"out.{ending}"
    before, transform = by_slicer(path), tilted_affine()
    assert transform_model(path, transform.map, out) >= before.GetNumberOfPoints()
    after = by_slicer(out)
    np.testing.assert_allclose(points_of(after), transform.map(points_of(before)), atol=2e-5)
    assert after.GetNumberOfCells() == before.GetNumberOfCells() > 30
    ids = [vtk_to_numpy(mesh.GetPolys().GetConnectivityArray()) for mesh in (before, after)]
    np.testing.assert_array_equal(*ids)
    for name in ("thickness",) if ending[:2] == "vt" else ():
        arrays = [vtk_to_numpy(mesh.GetPointData().GetArray(name)) for mesh in (before, after)]
        np.testing.assert_array_equal(*arrays)


@pytest.mark.parametrize("mode", ["ascii", "binary", "appended", "raw", "64 bits", "big endian"])
def test_vtp_files_of_every_mode(tmp_path, mode):
    writer = vtk.vtkXMLPolyDataWriter()
    writer.SetInputData(surface())
    writer.SetFileName(str(tmp_path / "m.vtp"))
    modes = {"ascii": writer.SetDataModeToAscii, "binary": writer.SetDataModeToBinary}
    modes.get(mode, writer.SetDataModeToAppended)()
    if mode == "raw":
        writer.EncodeAppendedDataOff()
        writer.SetCompressorTypeToNone()
    if mode == "64 bits":
        writer.SetHeaderTypeToUInt64()
    if mode == "big endian":
        writer.SetByteOrderToBigEndian()
    writer.Write()
    transform_model(tmp_path / "m.vtp", lambda points: points + [1, 2, 3], tmp_path / "o.vtp")
    apart = points_of(by_slicer(tmp_path / "o.vtp")) - points_of(by_slicer(tmp_path / "m.vtp"))
    np.testing.assert_allclose(apart, np.tile([1, 2, 3], (len(apart), 1)), atol=1e-5)


@pytest.mark.parametrize("ending", ["vtk", "stl", "ply"])
def test_files_of_text(tmp_path, ending):
    writer = {"vtk": vtk.vtkPolyDataWriter, "stl": vtk.vtkSTLWriter, "ply": vtk.vtkPLYWriter}[ending]()
    writer.SetInputData(surface())
    writer.SetFileTypeToASCII()
    writer.SetFileName(str(tmp_path / f"m.{ending}"))
    writer.Write()
    transform_model(tmp_path / f"m.{ending}", lambda p: 2 * p, tmp_path / f"o.{ending}")
    meshes = [by_slicer(tmp_path / f"{name}.{ending}") for name in "mo"]
    np.testing.assert_allclose(points_of(meshes[1]), 2 * points_of(meshes[0]), atol=1e-4)


VTK_TEXT = (
    "# vtk DataFile Version 3.0\nby hand\nASCII\nDATASET POLYDATA\n{points}\nPOLYGONS 2 8\n3 0 1 2\n3 0 2 3\n"
)
PLY_TEXT = (
    "ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
    "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    "1 2 3\n4 5 7\n8 0 2\n1 1 6\n3 0 1 2\n"
)
BY_HAND = {
    "whole numbers.vtk": VTK_TEXT.format(points="POINTS 4 int\n1 2 3\n4 5 7\n8 0 2\n1 1 6"),
    "one line.vtk": VTK_TEXT.format(points="POINTS 4 float 1 2 3 4 5 7 8 0 2 1 1 6"),
    "lower case.vtk": VTK_TEXT.format(points="points 4 double\n1 2 3\n4 5 7\n8 0 2\n1 1 6"),
    "lines of Windows.vtk": VTK_TEXT.format(points="POINTS 4 float\n1 2 3\n4 5 7\n8 0 2\n1 1 6").replace(
        "\n", "\r\n"
    ),
    "lines of Windows.ply": PLY_TEXT.replace("\n", "\r\n"),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_files_as_others_write_them(tmp_path, name):
    (tmp_path / name).write_bytes(BY_HAND[name].encode())
    out = tmp_path / f"o{name[-4:]}"
    assert transform_model(tmp_path / name, lambda p: 0.5 * p + [1, 2, 3], out) == 4
    expected = 0.5 * points_of(by_slicer(tmp_path / name)) + [1, 2, 3]
    np.testing.assert_allclose(points_of(by_slicer(out)), expected, atol=1e-5)


def test_the_command_takes_models_there_and_back(tmp_path):
    path = written(tmp_path / "m.ply", "LPS", False)
    save(rough_field(OBLIQUE), tmp_path / "t.h5")
    command = ["transform-points", "--transform", str(tmp_path / "t.h5")]
    assert main([*command, "-i", str(path), "-o", str(tmp_path / "o.ply")]) == 0
    expected = rough_field(OBLIQUE).map(points_of(by_slicer(path)))
    np.testing.assert_allclose(points_of(by_slicer(tmp_path / "o.ply")), expected, atol=1e-4)


def test_what_cannot_be_done_is_said(tmp_path, capsys):
    path = written(tmp_path / "m.stl", "LPS", False)
    with pytest.raises(InputError, match=r"o\.ply: a model is written in its own format, so \.stl"):
        transform_model(path, lambda p: p, tmp_path / "o.ply")
    save(tilted_affine(), tmp_path / "t.tfm")
    command = ["transform-points", "--transform", str(tmp_path / "t.tfm"), "-i", str(path), "-o", str(path)]
    assert main(command) == 2 and "take the place of what it is made of" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_model_cut_short_or_damaged_gets_a_sentence_or_a_result(tmp_path, ending):
    whole = written(tmp_path / f"m.{ending}", "RAS", True).read_bytes()
    bad, random, refused = tmp_path / f"bad.{ending}", np.random.default_rng(0), 0
    for number in range(60):
        data = bytearray(whole[: int(random.integers(0, len(whole)))] if number % 3 == 0 else whole)
        for _ in range(3):
            if data:
                data[int(random.integers(0, min(len(data), 900)))] = int(random.integers(256))
        bad.write_bytes(bytes(data))
        try:
            transform_model(bad, lambda points: points, tmp_path / f"o.{ending}")
        except InputError as error:
            assert str(error).startswith(f"{bad}: ")
            refused += 1
    assert refused > 7


def test_another_ending_is_said(tmp_path):
    (tmp_path / "m.obj").write_text("v 1 2 3\n")
    with pytest.raises(InputError, match="m.obj: models are read from .vtk, .vtp, .stl, .ply, not from this"):
        transform_model(tmp_path / "m.obj", lambda points: points, tmp_path / "o.obj")
