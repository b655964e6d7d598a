"""Headers alone and voxels as they are stored: the same as what is read whole, and what is refused."""

import gzip

import nibabel
import numpy as np
import pytest

from RegCore.io import HEADERS, load_voxels, read_header, save
from RegCore.space.geometry import InputError
from RegCore.space.volume import Volume
from Testing.RegCore.grids import GRIDS, OBLIQUE, SHAPE
from Testing.RegCore.io.test_bad_files import BAD

ARRAY = (np.random.default_rng(0).normal(size=SHAPE) * 50).astype(np.int16)
CHANNELS = np.stack([ARRAY, ARRAY > 0, ARRAY * 2], -1)
ENDINGS = [".nii", ".nii.gz", ".nrrd", ".mha"]
# Damage within compressed voxels can't be seen from outside.
SEEN_ONLY_WHEN_READ = {"gzip damaged", "nrrd: encoding"}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("array", [ARRAY, CHANNELS], ids=["one channel", "three channels"])
@pytest.mark.parametrize("grid", GRIDS)
def test_a_header_says_what_is_read(ending, array, grid, tmp_path):
    path = tmp_path / f"a{ending}"
    save(Volume(array, GRIDS[grid]), path)
    shape, geometry = read_header(path)
    read, place = load_voxels(path)
    np.testing.assert_array_equal(read, array)
    assert shape == array.shape and geometry == place and place.is_close(GRIDS[grid], 1e-3)


def test_soft_labels_and_axes_of_one_frame_are_read(tmp_path):
    soft = np.random.default_rng(0).random((*SHAPE, 1, 2)).astype(np.float32)
    for array, expected in ((soft, soft[:, :, :, 0]), (soft[..., :1], soft[..., 0, 0])):
        nibabel.save(nibabel.Nifti1Image(array, OBLIQUE.affine), tmp_path / "a.nii.gz")
        assert read_header(tmp_path / "a.nii.gz")[0] == expected.shape
        np.testing.assert_array_equal(load_voxels(tmp_path / "a.nii.gz")[0], expected)


def test_a_segmentation_of_slicer_has_a_channel_for_each_segment(tmp_path):
    save(Volume(CHANNELS[..., :2], OBLIQUE), tmp_path / "a.seg.nrrd")
    content = (tmp_path / "a.seg.nrrd").read_bytes()
    fields = b"".join(b"Segment%d_LabelValue:=1\nSegment%d_Layer:=1\n" % (n, n) for n in range(3))
    (tmp_path / "a.seg.nrrd").write_bytes(content.replace(b"endian", fields + b"endian", 1))
    assert read_header(tmp_path / "a.seg.nrrd")[0] == (*SHAPE, 3)
    read, _ = load_voxels(tmp_path / "a.seg.nrrd")
    assert read.shape == (*SHAPE, 3)
    np.testing.assert_array_equal(read[..., 2], ARRAY > 0)


def test_data_in_two_pieces_or_followed_by_more_are_whole(tmp_path):
    save(Volume(ARRAY, OBLIQUE), tmp_path / "a.nii")
    content = (tmp_path / "a.nii").read_bytes()
    pieces = gzip.compress(content[:500]) + gzip.compress(content[500:])
    for name, data in (("pieces", pieces), ("longer", gzip.compress(content + bytes(100)))):
        (tmp_path / f"{name}.nii.gz").write_bytes(data)
        assert read_header(tmp_path / f"{name}.nii.gz")[0] == SHAPE
    (tmp_path / "short.nii.gz").write_bytes(pieces[:-100])
    with pytest.raises(InputError, match="short.nii.gz: the file is cut short"):
        read_header(tmp_path / "short.nii.gz")


@pytest.mark.parametrize("case", [c for c, (name, _, kind, _) in BAD.items() if kind is None])
def test_what_can_not_be_read_is_refused_by_its_header_in_one_sentence(case, tmp_path):
    name, content, _, _ = BAD[case]
    path = tmp_path / name
    if not name.endswith(tuple(HEADERS)):
        pytest.skip("no file of voxels alone")
    path.write_bytes(content)
    if case in SEEN_ONLY_WHEN_READ:
        assert read_header(path)[0] == SHAPE
        with pytest.raises(InputError, match=name):
            load_voxels(path)
        return
    if "frames" in case:  # frames may be channels of labels
        assert len(load_voxels(path)[0].shape) == len(read_header(path)[0]) == 4
        return
    with pytest.raises(InputError) as caught:
        read_header(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_a_transform_is_no_volume(tmp_path):
    (tmp_path / "a.tfm").write_text("x")
    with pytest.raises(InputError, match="not a transform"):
        read_header(tmp_path / "a.tfm")
    with pytest.raises(InputError, match="no such file"):
        read_header(tmp_path / "b.nii")
