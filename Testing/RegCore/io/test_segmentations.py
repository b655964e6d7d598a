"""Segmentations of Slicer in files: names, ids, colours and terminology stay, in one layer and in several."""

import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from RegCore.cli import main
from RegCore.io import load, messages, read_header, save
from RegCore.resampler import warp
from RegCore.space.transforms import AffineTransform
from RegCore.space.volume import Segment, Volume
from Testing.RegCore.grids import LEFT_HANDED, OBLIQUE, SHAPE, tilted_affine

TAGS = (
    "Segmentation.Status:inprogress|TerminologyEntry:Any list~SCT^1^Structure~SCT^10200004^Liver~^^~A~^^~^^|"
)
SEGMENTS = (
    Segment(3, "Liver, left lobe", "Segment_9", (0.5, 0.25, 0.125), TAGS),
    Segment(1, "Nièré: Ω", "kidney", (1.0, 0.0, 0.0), ""),
)


def one_layer(grid=OBLIQUE) -> Volume:
    array = np.random.default_rng(0).choice([0, 1, 3], SHAPE).astype(np.uint8)
    return Volume(array, grid, "labels", SEGMENTS)


def layers(grid=OBLIQUE) -> Volume:
    array = np.random.default_rng(0).integers(0, 2, (*SHAPE, 2)).astype(np.uint8)
    return Volume(array, grid, "labels", tuple(replace(s, label=n) for n, s in enumerate(SEGMENTS)))


MADE = {"one layer": one_layer, "layers": layers}


@pytest.fixture
def slicer():
    return pytest.importorskip("slicer", reason="slicer-core is not installed")


def read_by_slicer(slicer, path):
    """The segmentation of a file as Slicer's node holds it."""
    scene = slicer.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(path))
    assert storage.ReadData(node)
    return scene, node


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("grid", [OBLIQUE, LEFT_HANDED], ids=["oblique", "left-handed"])
def test_a_segmentation_comes_back_whole(tmp_path, made, grid):
    volume = MADE[made](grid)
    save(volume, tmp_path / "s.seg.nrrd")
    found = load(tmp_path / "s.seg.nrrd")
    assert found.kind == "labels" and found.segments == volume.segments
    np.testing.assert_array_equal(found.array, volume.array)
    assert load(tmp_path / "s.seg.nrrd", "labels").segments == volume.segments
    assert load(tmp_path / "s.seg.nrrd", "image").segments == () if made == "one layer" else True


@pytest.mark.parametrize("made", MADE)
def test_slicer_reads_what_we_write(tmp_path, slicer, made):
    volume = MADE[made]()
    save(volume, tmp_path / "s.seg.nrrd")
    scene, node = read_by_slicer(slicer, tmp_path / "s.seg.nrrd")
    segmentation = node.GetSegmentation()
    assert list(segmentation.GetSegmentIDs()) == [segment.id for segment in volume.segments]
    for segment in volume.segments:
        found = segmentation.GetSegment(segment.id)
        assert found.GetName() == segment.name
        np.testing.assert_allclose(found.GetColor(), segment.colour, atol=1e-6)
        mask = volume.array == segment.label if made == "one layer" else volume.array[..., segment.label] == 1
        assert _count(slicer, node, segment.id) == mask.sum()


def _count(slicer, node, segment_id) -> int:
    """Voxels of a segment as Slicer counts them."""
    vtk = pytest.importorskip("vtk")
    image = slicer.vtkOrientedImageData()
    node.GetBinaryLabelmapRepresentation(segment_id, image)
    from vtk.util.numpy_support import vtk_to_numpy

    assert isinstance(image, vtk.vtkImageData)
    return int((vtk_to_numpy(image.GetPointData().GetScalars()) > 0).sum())


@pytest.mark.parametrize("made", MADE)
def test_we_read_what_slicer_writes(tmp_path, slicer, made):
    volume = MADE[made]()
    save(volume, tmp_path / "ours.seg.nrrd")
    scene, node = read_by_slicer(slicer, tmp_path / "ours.seg.nrrd")
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(tmp_path / "slicer.seg.nrrd"))
    assert storage.WriteData(node)
    found = load(tmp_path / "slicer.seg.nrrd", "labels")
    assert [(s.name, s.id) for s in found.segments] == [(s.name, s.id) for s in volume.segments]
    for theirs, ours in zip(found.segments, volume.segments, strict=True):
        np.testing.assert_allclose(theirs.colour, ours.colour, atol=1e-5)
        assert theirs.terminology == ours.terminology
        both = zip((found, volume), (theirs, ours), strict=True)
        counts = [
            (v.array == s.label).sum() if v.array.ndim == 3 else v.array[..., s.label].sum() for v, s in both
        ]
        assert counts[0] == counts[1]


@pytest.mark.parametrize(
    "name", ["a\\b", "C:\\new", "two  blanks", " before", "two\nlines", "a:=b", "#1", "Größe"]
)
def test_any_name_is_the_same_for_slicer(tmp_path, slicer, name):
    """NRRD writes a backslash and a new line as two letters each."""
    save(replace(one_layer(), segments=(Segment(3, name, "A"),)), tmp_path / "s.seg.nrrd")
    scene, node = read_by_slicer(slicer, tmp_path / "s.seg.nrrd")
    assert node.GetSegmentation().GetSegment("A").GetName() == name
    assert load(tmp_path / "s.seg.nrrd").segments[0].name == name
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(tmp_path / "theirs.seg.nrrd"))
    assert storage.WriteData(node)
    assert load(tmp_path / "theirs.seg.nrrd").segments[0].name == name


@pytest.mark.parametrize("made", MADE)
def test_a_segmentation_of_an_old_slicer_has_its_names(tmp_path, slicer, made):
    """Before 4.11 a header named no label values and no layers: each segment is 1 in a layer of its own."""
    volume = MADE[made]()
    if made == "one layer":
        volume = replace(volume, array=(volume.array == 3).astype(np.uint8), segments=(SEGMENTS[0],))
    save(volume, tmp_path / "new.seg.nrrd")
    head, mark, voxels = (tmp_path / "new.seg.nrrd").read_bytes().partition(b"\n\n")
    lines = [line for line in head.split(b"\n") if b"LabelValue" not in line and b"Layer" not in line]
    (tmp_path / "old.seg.nrrd").write_bytes(b"\n".join(lines) + mark + voxels)
    found = load(tmp_path / "old.seg.nrrd")
    assert found.kind == "labels"
    assert read_header(tmp_path / "old.seg.nrrd")[0] == found.array.shape
    scene, node = read_by_slicer(slicer, tmp_path / "old.seg.nrrd")
    for n, segment in enumerate(volume.segments):
        assert (found.segments[n].name, found.segments[n].id) == (segment.name, segment.id)
        mask = found.array == 1 if made == "one layer" else found.array[..., n]
        np.testing.assert_array_equal(mask, volume.array if made == "one layer" else volume.array[..., n])
        assert _count(slicer, node, segment.id) == mask.sum()


def test_warping_and_messages_keep_the_segments(tmp_path):
    for volume in (one_layer(), layers()):
        assert warp(volume, tilted_affine(1.0), OBLIQUE).segments == volume.segments
        messages.write(tmp_path / "m.npz", {"labels": volume})
        assert messages.read(tmp_path / "m.npz")["labels"].segments == volume.segments


def test_the_command_warp_keeps_the_segments(tmp_path):
    save(one_layer(), tmp_path / "s.seg.nrrd")
    save(AffineTransform.identity(), tmp_path / "t.tfm")
    command = ["warp", "--labels", "-i", f"{tmp_path}/s.seg.nrrd", "--transform", f"{tmp_path}/t.tfm"]
    main([*command, "--reference", f"{tmp_path}/s.seg.nrrd", "-o", f"{tmp_path}/w.seg.nrrd"])
    assert load(tmp_path / "w.seg.nrrd").segments == SEGMENTS


def blobs(shift: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image of two bright boxes, and each of the two."""
    shape = (28, 26, 24)
    liver, kidney = np.zeros(shape, bool), np.zeros(shape, bool)
    liver[4 + shift : 14 + shift, 6:18, 5:15], kidney[17 + shift : 23 + shift, 8:14, 9:16] = True, True
    image = np.random.default_rng(0).normal(size=shape) * 3 + 100 * liver + 60 * kidney
    return image.astype(np.float32), liver, kidney


@pytest.mark.parametrize("overlapping", [False, True])
def test_the_command_pairs_by_name_and_keeps_the_names(tmp_path, overlapping, capsys):
    grid = Volume(blobs(0)[0], type(OBLIQUE)((28, 26, 24), np.diag([-2.0, -2.0, 2.0, 1.0]))).geometry
    for side, shift, order in (("fixed", 0, ("Liver", "Kidney")), ("moving", 2, ("Kidney", "Liver"))):
        image, liver, kidney = blobs(shift)
        save(Volume(image, grid), tmp_path / f"{side}.nrrd")
        masks = {"Liver": liver, "Kidney": kidney}
        if overlapping and side == "moving":
            stacked = np.stack([masks["Kidney"], masks["Liver"] | masks["Kidney"]], -1).astype(np.uint8)
            volume = Volume(stacked, grid, "labels", tuple(Segment(n, name) for n, name in enumerate(order)))
        else:
            array = sum((masks[name] * np.uint8(n) for n, name in enumerate(order, 1)), np.uint8(0))
            volume = Volume(array, grid, "labels", tuple(Segment(n, name) for n, name in enumerate(order, 1)))
        save(volume, tmp_path / f"{side}.seg.nrrd")
    files = [f"--{side}={tmp_path}/{side}.nrrd" for side in ("fixed", "moving")]
    files += [f"--{side}-seg={tmp_path}/{side}.seg.nrrd" for side in ("fixed", "moving")]
    main(["register", *files, "--method", "rigid", "--out", f"{tmp_path}/out", "--device", "cpu"])
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert sorted(figures["structures"].values()) == ["Kidney", "Liver"]
    number = {name: label for label, name in figures["structures"].items()}
    assert figures["dice"]["after"][number["Kidney"]] > 0.95
    moved = sitk.ReadTransform(tmp_path / "out" / "transform.h5").TransformPoint((30.0, 20.0, 20.0))
    np.testing.assert_allclose(moved, (34.0, 20.0, 20.0), atol=0.2)
    assert "Liver" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "warped_seg.seg.nrrd" in names and "warped_seg.nii.gz" not in names
    warped = load(tmp_path / "out" / "warped_seg.seg.nrrd")
    assert {segment.name for segment in warped.segments} == {"Liver", "Kidney"}
