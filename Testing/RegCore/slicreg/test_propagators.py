"""What carries the supervoxels to the scans to train with: what deeds found, a trained model."""

import numpy as np
import pytest

import RegCore
from RegCore.slicreg import label_propagation
from RegCore.slicreg.folder import FolderSettings
from RegCore.slicreg.label_propagation import deeds_propagator, model_propagator
from RegCore.slicreg.preparation import body_mask, downsample2, network_units, prepare
from RegCore.slicreg.supervoxels import Supervoxels
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.space.volume import Volume
from Testing.RegCore.grids import affine
from Testing.RegCore.slicreg import synthetic

FIXED = Geometry((24, 30, 18), affine((0.1, -0.2, 0.3), (6.0, 5.0, 8.0)))
MOVING = Geometry((26, 28, 20), affine((-0.2, 0.1, 0.0), (-5.0, 6.0, 7.0), (11.0, -3.0, 8.0)))


def write_deeds(folder, name: str, matrix: np.ndarray, control: np.ndarray) -> None:
    """As deeds does: the matrix transposed, displacements along axes 1, 0 and 2, the first axis fastest."""
    np.savetxt(folder / f"{name}_matrix.txt", matrix.T)
    blocks = [control[axis].ravel(order="F") for axis in (1, 0, 2)]
    np.concatenate(blocks).astype("<f4").tofile(folder / f"{name}_displacements.dat")


def test_what_deeds_found_takes_scan_points_to_template_points(tmp_path):
    for name, grid in (("scan", FIXED), ("template", MOVING)):
        RegCore.save(Volume(np.zeros(grid.shape, np.float32), grid), tmp_path / f"{name}.nii.gz")
    matrix = np.eye(4)
    matrix[:3] += np.random.default_rng(0).normal(0, 0.03, (3, 4))
    matrix[:3, 3] += 2, -1, 1
    control = np.zeros((3, 4, 5, 3), np.float32)
    control += np.array([1.5, -0.5, 0.75]).reshape(
        3, 1, 1, 1
    )  # everywhere the same: no interpolation matters
    write_deeds(tmp_path, "scan", matrix, control)
    propagator = deeds_propagator(tmp_path, tmp_path / "template.nii.gz")
    path = tmp_path / "scan.nii.gz"
    propagator.check(path, FolderSettings())
    field = propagator.propagate(path, None, None, None)
    index = np.random.default_rng(1).uniform(4, 14, (20, 3))
    landing = index @ matrix[:3, :3].T + matrix[:3, 3] + [1.5, -0.5, 0.75]
    np.testing.assert_allclose(field.map(FIXED.to_world(index)), MOVING.to_world(landing), atol=1e-3)


def test_what_is_missing_is_told_by_the_check(tmp_path):
    RegCore.save(Volume(np.zeros(FIXED.shape, np.float32), FIXED), tmp_path / "scan.nii.gz")
    propagator = deeds_propagator(tmp_path, tmp_path / "scan.nii.gz")
    with pytest.raises(InputError, match="scan_displacements.dat: can't be read"):
        propagator.check(tmp_path / "scan.nii.gz", FolderSettings())
    write_deeds(tmp_path, "scan", np.eye(4), np.zeros((3, 4, 5, 3)))
    read = {path.name for path in propagator.files(tmp_path / "scan.nii.gz")}
    assert read == {"scan_matrix.txt", "scan_displacements.dat"}
    (tmp_path / "scan_matrix.txt").write_text("1 0 0\n")
    with pytest.raises(InputError, match="scan_matrix.txt: four lines"):
        propagator.check(tmp_path / "scan.nii.gz", FolderSettings())


class Trained:
    """What a model propagator asks of a model."""

    modality = "ct"
    supervoxels = Supervoxels(
        np.zeros((1, 16, 16, 16), np.uint8), Geometry((16,) * 3, np.diag([16.0, 16, 16, 1])), 3
    )


@pytest.mark.parametrize("known", [True, False])
def test_a_model_registers_scan_and_template_and_the_images_refine_it(monkeypatch, known):
    scan, template = (
        prepare(synthetic.ball(shift), synthetic.SHAPE, synthetic.SPACING)
        for shift in ((9.0, 4.0, -6.0), (0, 0, 0))
    )
    asked = []
    own = downsample2(
        template if known else prepare(synthetic.ball(noise=1), synthetic.SHAPE, synthetic.SPACING)
    )
    body = body_mask(own)[None].astype(np.uint8)
    monkeypatch.setattr(Trained, "supervoxels", Supervoxels(body, own.image.geometry, 3))
    monkeypatch.setattr(Trained, "image", network_units(own)[0, 0], raising=False)

    def registered(method, fixed, *moving, **rest):
        asked.append((method, fixed, *moving))
        rest["progress"](1.0, "matching", {})
        return DisplacementField.from_affine(AffineTransform.identity(), fixed.image.geometry)

    name = "register_from_template" if known else "register_prepared"
    monkeypatch.setattr(label_propagation, name, registered)
    told = []
    propagator = model_propagator(Trained)
    field = propagator.propagate(None, scan, template, lambda *event: told.append(event[0]))
    expected = (Trained, scan) if known else (Trained, scan, template)
    assert asked == [expected] and told == sorted(told) and told[0] == 0.5
    points = np.array([9.0, 4.0, -6.0]) + [(60, 0, 0), (0, -60, 0), (0, 0, 60), (30, 10, -60)]
    error = np.linalg.norm(field.map(points) - (points - [9.0, 4.0, -6.0]), axis=1)
    assert error.mean() < 4.0 < np.linalg.norm([9.0, 4.0, -6.0]) / 2


def test_a_model_of_another_grid_or_modality_is_refused():
    check = model_propagator(Trained).check
    check(None, FolderSettings(spacing=8.0))
    with pytest.raises(InputError, match="a common grid of 8 mm, but that of the preparation has 2 mm"):
        check(None, FolderSettings(spacing=2.0))
    with pytest.raises(InputError, match="trained for ct, not for mr"):
        check(None, FolderSettings(spacing=8.0, modality="mr"))
