"""Which segments of the two segmentations take part in a registration."""

from slicer.i18n import tr as _

from ..nodes import SegmentNames, segment_names
from .panel import Section
from .ticks import TickList


class SegmentsSection(Section):
    """The list of segments under Advanced, and what is said of those without a partner."""

    def __init__(self, panel):
        super().__init__(panel)
        self._list = TickList(self.ui.segmentsList, self.on_tick)
        self._shown: tuple | None = None  # the segmentations that are listed, and what was left out
        self.ui.advancedSection.contentsCollapsed.connect(self.on_open)

    def on_open(self) -> None:
        """Advanced was opened or closed: a segmentation may have changed since."""
        self._shown = None
        self.refresh()

    def refresh(self) -> None:
        """List the segments, if they are seen and others than those that are listed."""
        p, ui = self.panel.parameters, self.ui
        pair = (None, None) if p is None else (p.fixedSegmentation, p.movingSegmentation)
        for widget in (ui.segmentsListLabel, ui.segmentsList, ui.segmentsNote):
            widget.visible = pair[1] is not None
        wanted = (*pair, () if p is None else p.left_out())
        if pair[1] is None or ui.advancedSection.collapsed or wanted == self._shown:
            return
        names, self._shown = segment_names(*pair), wanted
        left_out = {name.casefold() for name in wanted[2]}
        listed = [(name, name) for name in names.both]
        listed += [(_("{name} (warped only)").format(name=name), name) for name in names.moving]
        self._list.show([(text, name, name.casefold() not in left_out) for text, name in listed])
        ui.segmentsNote.text = _on_unpaired(names, *pair)

    def on_tick(self) -> None:
        """Another choice: remember what is not ticked."""
        left = [name for name in self._list.values if name not in self._list.ticked()]
        others = [name for name in self.panel.parameters.left_out() if name not in self._list.values]
        wanted = tuple(others + left)
        self._shown = (*self._shown[:2], wanted)  # what is listed says it already
        self.panel.parameters.leave_out(wanted)


def _on_unpaired(names: SegmentNames, fixed, moving) -> str:
    """What is said of segments that only one of two segmentations has."""
    if fixed is None:
        return ""
    said = []
    for node, alone in ((fixed, names.fixed), (moving, names.moving)):
        listed = ", ".join(f"'{name}'" for name in alone)
        said += [_("Only in '{node}': {names}.").format(node=node.GetName(), names=listed)] if alone else []
    return " ".join(said) or _("Each segment has a partner.")
