"""The curves of the motion in a series: against ITK's Euler angles, Power's formula, and by hand."""

import numpy as np
import pytest
import SimpleITK as sitk

from RegCore.registration.motion import SIX, framewise_displacement, motion_of, six_parameters
from RegCore.space.transforms import AffineTransform, DisplacementField
from Testing.RegCore.grids import GRIDS, LEFT_HANDED, LPS, map_by_itk


@pytest.mark.parametrize("name", ["oblique", "left-handed"])
def test_the_six_parameters_are_those_of_itk(name):
    grid = GRIDS[name]
    euler = sitk.Euler3DTransform((LPS * grid.centre).tolist(), 0.1, -0.2, 0.3, (4.0, -5.0, 6.0))
    euler.SetComputeZYX(True)
    matrix = np.eye(4)
    origin, *ends = (map_by_itk(euler, point[None])[0] for point in np.vstack([np.zeros(3), np.eye(3)]))
    matrix[:3, :3], matrix[:3, 3] = (np.array(ends) - origin).T, origin
    expected = [-4.0, 5.0, 6.0, *np.degrees([-0.1, 0.2, 0.3])]  # LPS turned into RAS
    np.testing.assert_allclose(six_parameters(AffineTransform(matrix), grid), expected, atol=1e-6)
    field = DisplacementField.from_affine(AffineTransform(matrix), grid)
    np.testing.assert_allclose(six_parameters(field, grid), expected, atol=1e-3)


def test_framewise_displacement_is_that_of_power():
    parameters = np.array(
        [[0, 0, 0, 0, 0, 0], [1, -2, 0.5, 0, 0, 0], [1, -2, 0.5, 1, -2, 0.5], [1, -2, 0.5, 1, -2, 0.5]]
    )
    arc = 50 * np.pi / 180
    np.testing.assert_allclose(framewise_displacement(parameters), [0, 3.5, 3.5 * arc, 0])
    turned = np.array([[0, 0, 0, 179.0, 0, 0], [0, 0, 0, -179.0, 0, 0]])
    np.testing.assert_allclose(framewise_displacement(turned), [0, 2 * arc])


def test_curves_of_a_shift():
    shifts = []
    for t in range(3):
        matrix = np.eye(4)
        matrix[0, 3] = 2.0 * t
        shifts.append(AffineTransform(matrix))
    columns = motion_of(shifts, LEFT_HANDED)
    assert list(columns) == ["fd_mm", "moved_mm", "changed_mm", *SIX]
    for name, expected in (("fd_mm", [0, 2, 2]), ("moved_mm", [0, 2, 4]), ("changed_mm", [0, 2, 2])):
        np.testing.assert_allclose(columns[name], expected, atol=1e-9)
    np.testing.assert_allclose(columns["shift_r_mm"], [0, 2, 4], atol=1e-9)
    stretched = AffineTransform(np.diag([1.1, 1, 1, 1]))
    assert list(motion_of([*shifts, stretched], LEFT_HANDED)) == ["fd_mm", "moved_mm", "changed_mm"]
