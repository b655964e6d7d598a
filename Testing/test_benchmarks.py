"""The benchmark of real cases: what it measures is what it says, and its tables find their places."""

import json
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk

import RegCore
from RegCore.samples.datasets import ScanProtocol, make_cases, write_dataset
from RegCore.space.geometry import Geometry
from RegCore.space.transforms import AffineTransform
from RegCore.space.volume import Volume
from Testing.benchmarks import cases, growth, hippocampi, page, peers, reading, tables, trust
from Testing.benchmarks.measure import measured
from Testing.paths import ROOT

LPS = np.array([-1.0, -1.0, 1.0])


def test_memory_and_code_are_those_of_the_command_and_not_of_its_parent(tmp_path):
    here = np.ones(2**26)  # 512 MiB in this process
    found = measured([sys.executable, "-S", "-c", "x = bytearray(100 * 2**20); print('told')"], tmp_path)
    assert here.nbytes == 2**29
    assert found["code"] == 0 and 100 < found["mib"] < 160
    assert (tmp_path / "log.txt").read_text() == "told\n"
    assert measured([sys.executable, "-c", "raise SystemExit(3)"], tmp_path)["code"] == 3


def test_processor_seconds_are_those_of_the_command_and_its_children(tmp_path):
    spin = "import time\nwhile time.process_time() < 0.4: pass"
    twice = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {spin!r}])\n{spin}"
    assert 0.8 <= measured([sys.executable, "-c", twice], tmp_path)["cpu"] < 3


def test_a_command_without_end_is_ended(tmp_path):
    found = measured([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path, limit=0.2)
    assert found["code"] == 124


@pytest.mark.parametrize("name", ["cases", "robustness", "large", "growth", "trust"])
def test_every_table_has_its_place(name):
    text = page.PAGE.read_text(encoding="utf-8")
    assert f"<!-- {name}: begin -->\n" in text and f"\n<!-- {name}: end -->" in text


def test_the_pages_are_made_of_the_cases_that_were_measured(tmp_path, monkeypatch, capsys):
    figures = dict.fromkeys(tables.FIGURES, 1.0)
    found = dict.fromkeys(("start", *cases.OURS, "greedy"), figures) | {"ants": None}
    written = {}
    monkeypatch.setattr(tables, "put", lambda name, text, page=None: written.update({name: text}))
    for case in tables.CASES:
        assert not written
        (tmp_path / f"{case}.json").write_text(json.dumps(found))
        if case in list(tables.CASES)[:-1]:
            tables.write_documents(tmp_path, "Words.", "a machine", {})
    tables.write_documents(tmp_path, "Words.", "a machine", {"greedy": "greedy 1.2"})
    assert set(written) == {"cases", "benchmarks"} and "the pages stay as they are" in capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in written["benchmarks"].splitlines()]
    assert rows[0] == ["case", "start", "DeepRegSlicer", *tables.OTHERS.values()]
    assert {len(row) for row in rows} == {3 + len(tables.OTHERS)}
    torso = dict(zip(rows[0], rows[2], strict=True))
    assert torso["DeepRegSlicer"] == "**1.00**" and torso["greedy"] == "1.00" and torso["ANTs SyN"] == "–"
    assert torso["deeds"] == "1.13*"  # of peers.csv
    assert dict(zip(rows[0], rows[-1], strict=True))["deeds"] == "0.258*"  # the better of its two starts
    assert "greedy 1.2" in written["cases"]


def test_ratios_are_those_of_greedy():
    ours, greedy = {"cpu": 3.0, "mib": 600.0}, {"cpu": 2.0, "mib": 400.0}
    table = tables.ratio_table({"ct_torso_gt": {"balanced": ours, "fast": {"cpu": 1.0}, "greedy": greedy}})
    assert table.splitlines()[-1] == "| CT torso | 2.0 | 1.50 | 0.50 | – | – | 1.50 |"


def test_the_pool_is_every_ordered_pair(tmp_path, monkeypatch):
    monkeypatch.setattr(cases, "OUTPUT", tmp_path / "out")
    for name in cases.POOL.values():
        for ending in (".nii.gz", "_seg.nii.gz"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / f"{name}{ending}").write_text(name + ending)
    pairs = {tuple((folder / f"{s}_seg.nii.gz").read_text() for s in ("fixed", "moving")) for folder in
             cases.folders(tmp_path, "hippo_pool")}  # fmt: skip
    assert len(pairs) == 12 and all(a != b for a, b in pairs)


def test_what_an_ablation_leaves_out_is_left_out():
    pair, found = RegCore.make_phantom(fixed_shape=(20, 17, 15), moving_shape=(18, 18, 16)), {}
    for name, left_out in {"whole": (), **tables.ABLATIONS}.items():
        with cases.ablated(*left_out):
            found[name] = RegCore.register(pair.fixed, pair.moving, device="cpu").transform
    grid = pair.fixed.geometry.world_grid()
    fields = {name: transform.map(grid) - grid for name, transform in found.items()}
    flat = np.concatenate([grid.reshape(-1, 3), np.ones((grid.size // 3, 1))], 1)

    def bent(field):
        fit = flat @ np.linalg.lstsq(flat, field.reshape(-1, 3), rcond=None)[0]
        return np.abs(fit - field.reshape(-1, 3)).max()

    assert bent(fields["linear stage alone"]) < 1e-3  # mm
    for name in ("whole", "without correlation", "one grid"):
        assert bent(fields[name]) > 0.5, name
    assert not np.allclose(fields["without correlation"], fields["one grid"], atol=0.05)
    with cases.ablated():
        again = RegCore.register(pair.fixed, pair.moving, device="cpu").transform
    assert np.array_equal(again.map(grid) - grid, fields["whole"])  # nothing is left behind


def test_growth_fits_the_power_it_was_given():
    rows = [((n, n, n), {"fast": {"cpu": 3.0 * n**3.6, "mib": 50.0}}) for n in (10, 20, 40)]
    assert growth.exponent(rows, "fast", "cpu") == pytest.approx(1.2)
    assert growth.exponent(rows, "fast", "mib") == pytest.approx(0, abs=1e-9)
    picture = growth.picture(rows, ["fast"])
    assert picture.count("<polyline") == 2 and "40³" in picture


def test_a_displacement_before_an_affine_is_composed_on_an_oblique_left_handed_grid(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    turn = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, -1.0]]) @ np.diag([1.5, 2.0, 3.0])
    affine = np.block([[turn, np.array([[4.0], [-7.0], [11.0]])], [np.zeros((1, 3)), 1.0]])
    grid = Geometry((7, 8, 9), affine)
    RegCore.save(Volume(np.zeros(grid.shape, np.float32), grid, "image"), tmp_path / "fixed.nii.gz")
    random = np.random.default_rng(0)
    inner = random.normal(size=(*grid.shape, 3))
    matrix = np.eye(4)
    matrix[:3] += 0.1 * random.normal(size=(3, 4))
    flip = np.diag([*LPS, 1.0])
    lps = flip @ matrix @ flip
    outer = sitk.AffineTransform(lps[:3, :3].ravel().tolist(), lps[:3, 3].tolist())
    peers._save_after(sitk.ReadImage("fixed.nii.gz"), outer, (inner * LPS).transpose(2, 1, 0, 3))
    world = grid.world_grid()
    expected = AffineTransform(matrix).map(world + inner) - world
    assert np.abs(np.load("field.npz")["ddf"] - expected).max() < 1e-4


def test_programs_that_are_not_there_are_named(capsys):
    assert cases.versions(None) == {}
    told = capsys.readouterr().out
    assert all(f"{name} is not there" in told for name in peers.PEERS)
    assert set(peers.PEERS) <= set(tables.OTHERS)


def test_the_program_of_others_needs_none_of_ours():
    command = [sys.executable, "-S", str(ROOT / "Testing" / "benchmarks" / "peers.py"), "--list"]
    assert json.loads(subprocess.check_output(command)) == {}


def test_both_readers_read_the_same_voxels_of_each_format(tmp_path):
    reading.write_files((20, 18, 6), tmp_path / "ct", list(reading.FORMATS))
    for name in reading.FORMATS.values():
        ours, theirs = (reading.read(reader, tmp_path / "ct" / name) for reader in reading.READERS)
        assert ours["sum"] == theirs["sum"] < -1000, name
        assert ours["wall"] > 0 and ours["mib"] >= 0


def test_reading_is_told_in_shares_of_simpleitk():
    found = {
        "RegCore": {"cpu": 3.0, "wall": 1.0, "mib": 200.0},
        "SimpleITK": {"cpu": 2.0, "wall": 2.0, "mib": 400.0},
    }
    assert reading.table({"NRRD": found}).splitlines()[-1] == "| NRRD | 1.50 | 0.50 | 0.50 |"
    text = reading.PAGE.read_text(encoding="utf-8")
    assert "<!-- reading: begin -->\n" in text and "\n<!-- reading: end -->" in text


def test_two_directions_disagree_by_what_one_does_not_take_back():
    grid = Geometry((12, 13, 14), np.diag([2.0, 2.0, 3.0, 1.0]))
    forward, backward = np.eye(4), np.eye(4)
    forward[:3, 3], backward[:3, 3] = (3, 0, 1), (-3, 4, -1)
    points = grid.to_world(np.array([[5.0, 6, 7], [0, 0, 0]]))
    apart = trust.disagreement(AffineTransform(forward), AffineTransform(backward), grid, points)
    assert np.allclose(apart, 4)
    assert np.allclose(trust.disagreement(*[AffineTransform(np.eye(4))] * 2, grid, points), 0)


def test_a_case_is_predicted_by_the_line_of_the_others():
    apart = np.linspace(0.1, 2, 50)
    pairs = {"a": (0.5 + 2 * apart, apart), "b": (0.5 + 2 * apart[::2], apart[::2]), "c": (10 - apart, apart)}
    rows = [line.split(" | ") for line in trust.rows_of("auto", pairs)]
    assert rows[2][4] == "-1.00" and rows[2][5] == f"{(0.5 + 2 * apart).mean() / (10 - apart).mean():.2f} |"
    assert rows[0][4] == "1.00" and rows[0][2] == f"{pairs['a'][0].mean():.2f}"
    assert np.allclose(trust.line_of([pairs["a"], pairs["b"]]), (0.5, 2))


def test_networks_are_trained_and_measured_on_patients_apart(tmp_path, monkeypatch):
    """The benchmark of real hippocampi on made-up patients in their place."""
    for name, value in {"TEST": 2, "VALID": 2, "SIZE": (16, 16, 16), "EPOCHS": {"keypoints": 1}}.items():
        monkeypatch.setattr(hippocampi, name, value)
    monkeypatch.setattr(hippocampi, "TITLES", {"start": "as they come", "keypoints": "keypoints"})
    with pytest.raises(SystemExit, match="more than 4 patients in images and labels were expected"):
        hippocampi.split(tmp_path, tmp_path / "nothing")
    scans = ScanProtocol("mr", (18, 16, 20), (92, 88, 88), (0, 0, 0), ((1, 2, 3, 4), (2,)), "prostate")
    write_dataset(tmp_path / "data", make_cases("unpaired", scans, count=6, shift_mm=10.0), "nifti")
    assert hippocampi.split(tmp_path / "data", tmp_path / "parts") == 2
    parts = [
        {p.name for p in (tmp_path / "parts" / n / "images").iterdir()} for n in ("test", "valid", "train")
    ]
    assert [len(part) for part in parts] == [2, 2, 2] and len(set.union(*parts)) == 6
    found = {}
    for name in hippocampi.TITLES:
        found |= hippocampi.measured(name, tmp_path / "parts")
    assert 0 < found["start"]["lowest"] == found["start"]["dice"] < 1
    assert found["keypoints"]["dice"] != found["start"]["dice"]
    rows = hippocampi.table(found, 2).splitlines()
    assert len(rows) == 4 and rows[3].startswith("| keypoints | 1 | ") and rows[3].count("|") == 9
