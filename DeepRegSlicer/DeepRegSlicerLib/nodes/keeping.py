"""What came of a registration, kept with its nodes in the scene: a scene that is loaded tells of it."""

import json
from dataclasses import dataclass

import slicer

TOLD = "DeepRegSlicer.result"  # attribute of the first node of a result: its figures, as JSON
ROLE = "DeepRegSlicerResult"  # what the roles of the references to the other nodes begin with
INPUTS = ("fixed", "moving", "fixed_segmentation", "moving_segmentation", "initial")
OUTPUTS = ("transform", "warped_volume", "warped_segmentation", "inverse", "jacobian", "displacement")
FIGURES = ("metrics", "seconds", "structures", "landmark_errors", "outside", "device", "name")


@dataclass(frozen=True)
class Kept:
    """A result that the scene told of.

    nodes: by the names in `INPUTS` and `OUTPUTS`, None for one that is not there. along, applied: nodes.
    figures: by the names in `FIGURES`. about: other values that were kept, by their names.
    """

    nodes: dict
    along: tuple
    applied: tuple
    figures: dict
    about: dict


def keep(result, inputs: tuple, about: dict) -> None:
    """Keep the figures of a `RegistrationResult` with its first node, and what belongs to it.

    inputs: the nodes of `INPUTS`. about: further values that JSON can say, by their names.
    """
    if not result.nodes():
        return
    node, figures = result.nodes()[0], {name: getattr(result, name) for name in FIGURES}
    found = dict(zip(INPUTS, inputs, strict=True)) | {name: getattr(result, name) for name in OUTPUTS}
    found = {
        name: one if one and slicer.mrmlScene.IsNodePresent(one) else None for name, one in found.items()
    }
    several = {"along": result.warped_along, "applied": result.applied}
    with slicer.util.NodeModify(node):
        node.SetAttribute(TOLD, json.dumps({"figures": figures, "about": about}, ensure_ascii=False))
        for name, one in found.items():
            node.SetNodeReferenceID(f"{ROLE}.{name}", one and one.GetID())
        for name, those in several.items():
            node.RemoveNodeReferenceIDs(f"{ROLE}.{name}")
            for one in those:
                node.AddNodeReferenceID(f"{ROLE}.{name}", one.GetID())


def recall(node) -> Kept | None:
    """What was kept with a node; None if nothing was, or its volumes left the scene."""
    try:
        told = json.loads(node.GetAttribute(TOLD) or "")
        figures, about = told["figures"], told["about"]
    except (ValueError, KeyError, TypeError):
        return None
    found = {name: node.GetNodeReference(f"{ROLE}.{name}") for name in (*INPUTS, *OUTPUTS)}
    if found["fixed"] is None or found["moving"] is None or set(figures) != set(FIGURES):
        return None
    figures["landmark_errors"] = tuple(map(tuple, figures["landmark_errors"]))
    return Kept(found, _several(node, "along"), _several(node, "applied"), figures, about)


def _several(node, name: str) -> tuple:
    role = f"{ROLE}.{name}"
    found = (node.GetNthNodeReference(role, n) for n in range(node.GetNumberOfNodeReferences(role)))
    return tuple(one for one in found if one is not None)
