"""The section "Apply": the chosen transform on any volumes, segmentations, models and markups in one step."""

import qt
from slicer.i18n import tr as _

from ..nodes import apply_transform, transformable_nodes


class ApplySection:
    """The list of nodes that can be put under the transform that is chosen as output, and its button."""

    def __init__(self, ui):
        """ui: the widgets by name."""
        self.ui = ui
        self._nodes: list = []  # in the order of the list
        ui.applySection.contentsCollapsed.connect(self.refresh)

    def refresh(self) -> None:
        """List the nodes of the scene; those that are under the transform already are ticked."""
        ui, transform = self.ui, self.ui.outputTransformSelector.currentNode()
        ui.applyList.clear()
        self._nodes = transformable_nodes() if transform is not None else []
        for node in self._nodes:
            item = qt.QListWidgetItem(node.GetName())
            there = node.GetParentTransformNode() is transform
            item.setCheckState(qt.Qt.Checked if there else qt.Qt.Unchecked)
            ui.applyList.addItem(item)
        ui.applyButton.enabled = bool(self._nodes)

    def apply(self) -> str:
        """Put the ticked nodes under the transform; a sentence on what was done."""
        items = [self.ui.applyList.item(row) for row in range(self.ui.applyList.count)]
        pairs = zip(self._nodes, items, strict=True)
        chosen = [node for node, item in pairs if item.checkState() == qt.Qt.Checked]
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
