"""The methods that an evaluation compares: the start, a trained model, and that model refined by images."""

import numpy as np

from RegCore.slicreg.alignment import refined
from RegCore.slicreg.evaluation import Labelled, Way
from RegCore.slicreg.registration import PASSES, prepared, to_template
from RegCore.slicreg.template import Method
from RegCore.space.transforms import AffineTransform, DisplacementField


def at_the_start(method: Method) -> Way:
    """Both bodies in the middle of their common grids, as every method finds them."""

    def way(template: Labelled, scan: Labelled) -> AffineTransform:
        grids = [prepared(method, case.image, case.name).image.geometry for case in (template, scan)]
        return AffineTransform(grids[1].affine @ np.linalg.inv(grids[0].affine))

    return way


def by(method: Method, device: str = "cpu", passes: int = PASSES) -> Way:
    """A trained model alone, the template's supervoxels known; passes as in `to_template`."""

    def way(template: Labelled, scan: Labelled) -> DisplacementField:
        return to_template(method, prepared(method, scan.image, scan.name), passes=passes, device=device)

    return way


def refined_by(method: Method, device: str = "cpu") -> Way:
    """A trained model, and then the images."""

    def way(template: Labelled, scan: Labelled) -> DisplacementField:
        fixed, moving = (prepared(method, case.image, case.name) for case in (template, scan))
        return refined(fixed, moving, to_template(method, moving, device=device), device=device)

    return way
