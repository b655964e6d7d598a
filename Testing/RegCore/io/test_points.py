"""Points and landmarks in files of Slicer, transformix and tables: the same places in RAS for all."""

import json

import numpy as np
import pytest

from RegCore.cli import main
from RegCore.io import save
from RegCore.io.points import Points, load_landmarks, load_points, save_points
from RegCore.space.geometry import InputError
from Testing.RegCore.grids import LPS, OBLIQUE, points_inside, smooth_field, tilted_affine

PLACES = np.array([[-7.4, -5.1, -4.0], [7.0, 1.5, 0.25], [-2.6, 9.2, -12.0]])
POINTS = Points(PLACES, ("F-1", "tip, left", 'the "end"'))
ENDINGS = ["mrk.json", "json", "fcsv", "csv", "txt"]


@pytest.fixture
def slicer():
    return pytest.importorskip("slicer", reason="slicer-core is not installed")


def storage_of(slicer, path):
    kind = "Json" if path.suffix == ".json" else "Fiducial"
    storage = getattr(slicer, f"vtkMRMLMarkups{kind}StorageNode")()
    storage.SetFileName(str(path))
    return storage


@pytest.mark.parametrize("ending", ENDINGS)
def test_points_come_back_as_they_were(tmp_path, ending):
    save_points(POINTS, tmp_path / f"p.{ending}")
    found = load_points(tmp_path / f"p.{ending}")
    np.testing.assert_allclose(found.places, PLACES, atol=1e-12)
    assert found.labels == (POINTS.labels if ending != "txt" else ("", "", ""))


@pytest.mark.parametrize("ending", ["mrk.json", "fcsv"])
def test_slicer_reads_the_points_we_write(tmp_path, slicer, ending):
    save_points(POINTS, tmp_path / f"p.{ending}")
    scene = slicer.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    assert storage_of(slicer, tmp_path / f"p.{ending}").ReadData(node)
    assert node.GetNumberOfControlPoints() == 3
    for number in range(3):
        place = [0.0, 0.0, 0.0]
        node.GetNthControlPointPosition(number, place)
        np.testing.assert_allclose(place, PLACES[number], atol=1e-6)
        label = node.GetNthControlPointLabel(number)
        assert label.replace('"', "") == POINTS.labels[number].replace('"', "")


@pytest.mark.parametrize("ending", ["mrk.json", "fcsv"])
@pytest.mark.parametrize("system", ["RAS", "LPS"])
def test_we_read_the_points_that_slicer_writes(tmp_path, slicer, ending, system):
    scene = slicer.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    for place, label in zip(PLACES.tolist(), ("a", "b", "c d"), strict=True):
        node.AddControlPoint(place, label)
    storage = storage_of(slicer, tmp_path / f"p.{ending}")
    storage.SetCoordinateSystem(getattr(slicer.vtkMRMLStorageNode, f"CoordinateSystem{system}"))
    assert storage.WriteData(node)
    found = load_points(tmp_path / f"p.{ending}")
    np.testing.assert_allclose(found.places, PLACES, atol=1e-3)
    assert found.labels == ("a", "b", "c d")


@pytest.mark.parametrize(
    ("name", "text", "signs"),
    [
        ("p.csv", "x,y,z\n1,2,3\n", (1, 1, 1)),
        ("p.csv", "label,r,a,s,defined\nF,1,2,3,1\n", (1, 1, 1)),
        ("p.csv", "l,p,s\n1,2,3\n", LPS),
        ("p.csv", "x,y,z,t,label\n1,2,3,0,5\n", LPS),
        ("p.txt", "point\n1\n1 2 3\n", LPS),
        ("p.csv", "x;y;z\n1;2;3\n", (1, 1, 1)),
        ("p.csv", "name\tl\tp\ts\nF\t1\t2\t3\n", LPS),
        (
            "p.txt",
            "Point\t0\t; InputPoint = [ 7 8 9 ]\t; OutputPoint = [ 1.0 2 3 ]\t; Deformation = [ 0 0 0 ]",
            LPS,
        ),
        ("p.fcsv", "# CoordinateSystem = 0\n# columns = label,x,y,z\nF,1,2,3\n", (1, 1, 1)),
        ("p.fcsv", "# CoordinateSystem = LPS\n1,1,2,3,0,0,0,1,1,1,0,F,,\n", LPS),
    ],
)
def test_the_systems_of_coordinates(tmp_path, name, text, signs):
    (tmp_path / name).write_text(text)
    np.testing.assert_array_equal(load_points(tmp_path / name).places, [np.array([1, 2, 3]) * signs])


UNSET = {
    "p.fcsv": "# CoordinateSystem = 0\n1,1,2,3,0,0,0,1,1,1,0,a,,,2,0\n2,0,0,0,0,0,0,1,1,1,0,b,,,0,0\n",
    "p.csv": "label,r,a,s,defined,selected\na,1,2,3,1,1\nb,0,0,0,0,1\n",
    "p.mrk.json": json.dumps(
        {
            "markups": [
                {
                    "coordinateSystem": "RAS",
                    "controlPoints": [
                        {"label": "a", "position": [1, 2, 3], "positionStatus": "defined"},
                        {"label": "b", "position": [0, 0, 0], "positionStatus": "undefined"},
                    ],
                }
            ]
        }
    ),
}


@pytest.mark.parametrize("name", UNSET)
def test_points_that_were_never_set_are_none(tmp_path, name):
    """Slicer writes them at the origin."""
    (tmp_path / name).write_text(UNSET[name])
    found = load_points(tmp_path / name)
    np.testing.assert_allclose(found.places, [[1, 2, 3]])
    assert found.labels == ("a",)


def test_a_table_of_windows_has_its_letters(tmp_path):
    (tmp_path / "p.csv").write_bytes("label;x;y;z\nGröße;1;2;3\n".encode("cp1252"))
    assert load_points(tmp_path / "p.csv").labels == ("Größe",)


def test_the_unit_of_markups_is_said_where_it_is_none_of_slicer(tmp_path, caplog):
    text = UNSET["p.mrk.json"].replace('"coordinateSystem"', '"coordinateUnits": "cm", "coordinateSystem"')
    (tmp_path / "p.mrk.json").write_text(text)
    np.testing.assert_allclose(load_points(tmp_path / "p.mrk.json").places, [[1, 2, 3]])
    assert "taken for mm, as in Slicer" in caplog.text


BAD = {
    "p.csv": {"": "first line must", "a,b,c\n1,2,3\n": "first line must", "x,y,z\n1,2\n": "line 2 must"},
    "p.txt": {"index\n1\n1 2 3\n": "the word point", "point\n2\n1 2 3\n": "number of points", "": "the word"},
    "p.fcsv": {"1,x,2,3\n": "line 1 must", "# CoordinateSystem = XYZ\n": "'XYZ'"},
    "p.json": {"{}": "markups of Slicer", "[": "markups of Slicer", '{"markups": []}': "no points"},
    "p.xyz": {"1 2 3": "points are read from"},
}
BAD["p.fcsv"]["# columns = id\n"] = "no points"


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, cases in BAD.items() for text in cases])
def test_bad_points_get_a_sentence(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=BAD[name][text]) as caught:
        load_points(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: ") and "\n" not in str(caught.value)


# ---- pairs -------------------------------------------------------------------------------------------------


def test_two_files_are_paired_by_label_else_by_order(tmp_path):
    moved = PLACES + 10
    expected = np.concatenate([PLACES, moved], 1)
    save_points(Points(PLACES, ("a", "b", "c")), tmp_path / "fixed.fcsv")
    save_points(Points(moved[[2, 0, 1]], ("c", "a", "b")), tmp_path / "moving.mrk.json")
    found = load_landmarks(tmp_path / "fixed.fcsv", tmp_path / "moving.mrk.json")
    np.testing.assert_allclose(found, expected)
    save_points(Points(moved[:2], ("c", "x")), tmp_path / "some.csv")
    found = load_landmarks(tmp_path / "fixed.fcsv", tmp_path / "some.csv")
    np.testing.assert_allclose(found, [[*PLACES[2], *moved[0]]])
    save_points(Points(moved, ("M-1", "M-2", "M-3")), tmp_path / "other.csv")
    np.testing.assert_allclose(load_landmarks(tmp_path / "fixed.fcsv", tmp_path / "other.csv"), expected)
    save_points(Points(moved[:2], ("", "")), tmp_path / "fewer.txt")
    with pytest.raises(InputError, match="as many on both sides, not 3 and 2"):
        load_landmarks(tmp_path / "fixed.fcsv", tmp_path / "fewer.txt")


def markups(path, labels, skipped):
    """Points 0, 1, 2 … mm along an axis, of which one was never set."""
    points = [
        {"label": label, "position": [n, 0, 0], "positionStatus": "undefined" if n == skipped else "defined"}
        for n, label in enumerate(labels)
    ]
    path.write_text(json.dumps({"markups": [{"coordinateSystem": "RAS", "controlPoints": points}]}))
    return path


@pytest.mark.parametrize("labels", [("F-1 F-2 F-3 F-4", "M-1 M-2 M-3 M-4"), ("a b c d", "A b C D")])
def test_a_point_that_is_set_on_one_side_only_shifts_no_pair(tmp_path, labels):
    fixed = markups(tmp_path / "f.mrk.json", labels[0].split(), 0)
    moving = markups(tmp_path / "m.mrk.json", labels[1].split(), 2)
    pairs = load_landmarks(fixed, moving)
    np.testing.assert_allclose(pairs[:, 0], [1, 3])
    np.testing.assert_allclose(pairs[:, 3], [1, 3])
    with pytest.raises(InputError, match="no point is set on both sides"):
        load_landmarks(markups(fixed, ["a", "b"], 0), markups(moving, ["a", "b"], 1))


def test_one_file_with_two_lists_holds_pairs(tmp_path):
    for name, shift in (("fixed", 0.0), ("moving", 5.0)):
        save_points(Points(PLACES + shift, ("a", "b", "c")), tmp_path / f"{name}.mrk.json")
    both = json.loads((tmp_path / "fixed.mrk.json").read_text())
    both["markups"] += json.loads((tmp_path / "moving.mrk.json").read_text())["markups"]
    (tmp_path / "both.mrk.json").write_text(json.dumps(both))
    found = load_landmarks(tmp_path / "both.mrk.json")
    np.testing.assert_allclose(found, np.concatenate([PLACES, PLACES + 5], 1))
    with pytest.raises(InputError, match="or a second file with the moving ones"):
        load_landmarks(tmp_path / "fixed.mrk.json")


# ---- the command -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("kind", ["affine", "field"])
def test_points_go_through_a_transform(tmp_path, inverse, kind):
    grid = OBLIQUE.resized((20, 21, 22))
    transform = tilted_affine() if kind == "affine" else smooth_field(grid, mm=2.0)
    fixed = points_inside(grid, 20, margin=4.0)
    given, expected = (transform.map(fixed), fixed) if inverse else (fixed, transform.map(fixed))
    save(transform, tmp_path / "t.h5")
    save_points(Points(given, tuple(f"p{n}" for n in range(20))), tmp_path / "in.fcsv")
    command = ["transform-points", "--points", f"{tmp_path}/in.fcsv", "--transform", f"{tmp_path}/t.h5"]
    assert main([*command, "--out", f"{tmp_path}/out.mrk.json", *["--inverse"] * inverse]) == 0
    found = load_points(tmp_path / "out.mrk.json")
    np.testing.assert_allclose(found.places, expected, atol=0.05 if inverse else 1e-4)
    assert found.labels[7] == "p7"


def test_the_command_says_what_it_can_not_read(tmp_path, capsys):
    command = [
        "transform-points",
        "--points",
        f"{tmp_path}/none.fcsv",
        "--transform",
        "t.h5",
        "--out",
        "o.csv",
    ]
    assert main(command) == 2
    assert "none.fcsv: can't be read" in capsys.readouterr().err
