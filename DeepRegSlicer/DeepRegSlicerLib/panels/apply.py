"""The section "Apply": the chosen transform on any volumes, segmentations, models and markups in one step."""

from slicer.i18n import tr as _

from ..nodes import apply_transform, transformable_nodes
from .ticks import TickList


class ApplySection:
    """The list of nodes that can be put under the transform that is chosen as output, and its button."""

    def __init__(self, ui):
        """ui: the widgets by name."""
        self.ui = ui
        self._list = TickList(ui.applyList)
        ui.applySection.contentsCollapsed.connect(self.refresh)

    def refresh(self) -> None:
        """List the nodes of the scene; those that are under the transform already are ticked."""
        transform = self.ui.outputTransformSelector.currentNode()
        nodes = transformable_nodes() if transform is not None else []
        entries = [(node.GetName(), node, node.GetParentTransformNode() is transform) for node in nodes]
        self._list.show(entries)
        self.ui.applyButton.enabled = bool(nodes)

    def apply(self) -> str:
        """Put the ticked nodes under the transform; a sentence on what was done."""
        chosen = self._list.ticked()
        transform = self.ui.outputTransformSelector.currentNode()
        applied, left = apply_transform(transform, chosen)
        self.refresh()
        if not chosen:
            return _("No node is ticked.")
        text = _("The transform '{name}' is applied to {nodes}.")
        text = text.format(name=transform.GetName(), nodes=_named(applied) or _("none of them"))
        if left:
            text += " " + _("Under another transform, or gone: {nodes}.").format(nodes=_named(left))
        return text


def _named(nodes: list) -> str:
    return ", ".join(f"'{node.GetName()}'" for node in nodes)
