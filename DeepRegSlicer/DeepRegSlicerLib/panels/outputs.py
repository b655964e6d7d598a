"""Outputs of a registration: when a new node is made, and what is made."""

from slicer.i18n import tr as _

from RegCore.space.geometry import InputError

from ..nodes import MoreOutputs, is_automatic, warpable_nodes
from .panel import Section
from .ticks import TickList

OUTPUTS = ("outputTransform", "warpedVolume", "warpedSegmentation")


class OutputsSection(Section):
    """The sections Outputs and More outputs."""

    def __init__(self, panel):
        super().__init__(panel)
        self._inputs: tuple = ()  # the nodes that the outputs belong to
        self._list = TickList(self.ui.alongList, self.on_tick)
        self.ui.moreOutputsSection.contentsCollapsed.connect(self.refresh)

    def belong_to(self, inputs: tuple) -> None:
        """From now on the chosen outputs are those of these inputs."""
        self._inputs = inputs

    def release(self, inputs: tuple) -> None:
        """Create new outputs where an input changed and the program, not the user, made the chosen ones."""
        p = self.panel.parameters
        if inputs == self._inputs:
            return
        self._inputs = inputs
        for name in OUTPUTS if p is not None else ():
            node = getattr(p, name)
            if node is not None and is_automatic(node):
                setattr(p, name, None)

    def refresh(self) -> None:
        """Enable what belongs to what is made, and list what can be warped along."""
        ui, p = self.ui, self.panel.parameters
        images, segments = p is not None and p.createImages, p is not None and p.createSegmentation
        for widget in (
            ui.warpedVolumeSelector,
            ui.interpolationSelector,
            ui.outsideEdit,
            ui.voxelTypeSelector,
        ):
            widget.enabled = images
        ui.warpedSegmentationSelector.enabled = segments
        ui.outputTransformSelector.enabled = p is not None and p.createTransform
        ui.applyCheckBox.enabled = not images and ui.outputTransformSelector.enabled
        if ui.moreOutputsSection.collapsed or p is None:
            return
        nodes, along = [n for n in warpable_nodes() if n is not p.fixedLandmarks], p.along()
        wanted = [(node.GetName(), node, any(node is one for one in along)) for node in nodes]
        if self._list.values != nodes or self._list.ticked() != [n for _t, n, ticked in wanted if ticked]:
            self._list.show(wanted)

    def on_tick(self) -> None:
        """Another choice of what is warped along."""
        self.panel.parameters.warp_along(self._list.ticked())

    def validate(self, many: bool = False, files: bool = False) -> str:
        """Why this can't be made, empty if it can.

        many: of a batch, which warps nothing along, and whose volumes have segmentations of their own. files:
        of a batch of files, whose transforms are always written.
        """
        try:
            self.outside()
        except InputError as error:
            return str(error)
        p = self.panel.parameters
        made = (
            *(files, p.createTransform, p.createImages),
            *(p.createInverse, p.createJacobian, p.createDisplacement),
            p.createSegmentation and (many or p.movingSegmentation is not None),
            p.along() and not many,
        )
        return "" if any(made) else _("Nothing is to be made: tick something under More outputs")

    def outside(self) -> float | None:
        """The value outside of the moving volume, None for its smallest one. Raises InputError."""
        text = self.panel.parameters.outside.strip().replace(",", ".")
        try:
            return float(text) if text else None
        except ValueError:
            said = _("The outside value is '{text}'; a number is expected").format(text=text)
            raise InputError(said) from None

    def more(self) -> MoreOutputs:
        """What is asked for, see `MoreOutputs`."""
        p = self.panel.parameters
        return MoreOutputs(
            transform=p.createTransform,
            segmentation=p.createSegmentation,
            inverse=p.createInverse,
            jacobian=p.createJacobian,
            displacement=p.createDisplacement,
            along=tuple(p.along()),
            interpolation=p.interpolation.value,
            fill=self.outside(),
            voxel_type=p.voxelType.value,
            full_field=p.fullField,
        )
