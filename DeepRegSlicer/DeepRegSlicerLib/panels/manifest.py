"""The button of the Batch panel that writes a manifest: the same registrations, for the command line."""

import shutil
from pathlib import Path

from slicer.i18n import tr as _

from .. import nodes
from ..batch import Batch, Item
from ..manifest import file_names, new_folder, start_saving, write_manifest
from ..nodes.exporting import named_labels
from ..parameters import Start
from ..process import shared_worker
from .panel import Section, Tone, handler


class ManifestSection(Section):
    """Writes the chosen volumes, with their segmentations, and a table that ``regcore register-all`` runs."""

    def __init__(self, panel):
        """panel: the BatchPanel."""
        super().__init__(panel)
        self.ui.manifestButton.clicked.connect(self.on_write)

    @handler
    def on_write(self) -> None:
        """Write into a new folder below the one that is chosen."""
        shared_worker().check_free()
        panel, p = self.panel, self.panel.register.parameters
        panel.fields.keep()
        sources = panel.sources()
        if not sources:
            panel.set_status(_("Tick the volumes that are to be registered."))
            return
        folder = new_folder(Path(panel.fields["outPath"]))
        self._start = p.initialTransform or p.starting()
        given = {id(node): panel.inputs_of(node) for _name, node, *sequence in sources if not sequence}
        guide = next((one["fixed_segmentation"] for one in given.values() if one["fixed_segmentation"]), None)
        reads = [self._reading_fixed(p.fixedVolume, guide, p.fixedMask, p.left_out())]
        reads += [self._reading(*source[1:], given=given.get(id(source[1]))) for source in sources]
        names = file_names([p.fixedVolume.GetName(), *(source[0] for source in sources)])
        items = [Item(name, read) for name, read in zip(names, reads, strict=True)]
        self._how, self._folder, self._items = (p.chosen(), p.settings()), folder, items
        self.ui.batchProgressBar.value = 0
        self.ui.batchProgressBar.visible = True
        panel.set_status(_("Writing the volumes …"))
        panel.run = Batch(items, start_saving(folder), self._on_changed, self._on_done)
        if not panel.run.running:  # every item failed at once
            self._on_done()
        self.update()

    def _reading_fixed(self, volume, segmentation, mask, left_out):
        """A function that reads the fixed volume, and the start where it is the same for all."""

        def read() -> dict:
            fixed, start = nodes.volume(volume), self._start
            if start is not None and not isinstance(start, str):
                start = nodes.initial_transform(start, fixed.geometry)
            return {
                "volume": fixed,
                "labels": segmentation and named_labels(segmentation, left_out),
                "mask": mask and nodes.mask(mask, grid=fixed.geometry),
                "initial": None if start == Start.moments.value else start,
            }

        return read

    def _reading(self, node, sequence=None, given=None):
        """A function that reads a moving volume; of a sequence, the item of that number.

        given: what `BatchPanel.inputs_of` says of a volume.
        """

        def read() -> dict:
            if sequence is None:
                return self._read_moving(node, given)
            opened = sequence.open(node)
            try:
                return {"volume": nodes.volume(opened)} | self._own_start()
            finally:
                sequence.close(node)

        return read

    def _read_moving(self, node, given: dict) -> dict:
        volume = nodes.volume(node)
        labels = given["fixed_segmentation"] and named_labels(given["moving_segmentation"], given["left_out"])
        mask = given["moving_mask"] and nodes.mask(given["moving_mask"], grid=volume.geometry)
        return {"volume": volume, "labels": labels, "mask": mask} | self._own_start()

    def _own_start(self) -> dict:
        """A start that depends on the moving volume too."""
        fixed = self._items[0]
        if self._start != Start.moments.value or fixed.result is None:
            return {}
        return {"initial": self._start, "fixed": str(self._folder / fixed.result["volume"])}

    def _on_changed(self, fraction: float) -> None:
        if not self.panel.closed:
            self.ui.batchProgressBar.value = round(100 * fraction)
            self.panel.announce(_("writing the volumes"), fraction)

    def _on_done(self) -> None:
        """Write the table, and say what is there; nothing stays where there is nothing to register."""
        panel, cancelled = self.panel, self.panel.run is not None and self.panel.run.cancelled
        panel.run = None
        fixed, *moving = self._items
        good = [item for item in moving if item.result is not None]
        failed = [item for item in self._items if item.error is not None]
        try:
            if cancelled or fixed.result is None or not good:
                shutil.rmtree(self._folder, ignore_errors=True)
            else:
                path = write_manifest(self._folder, fixed, good, *self._how)
        except OSError as error:
            failed.append(Item(fixed.name, None, error=error))
            good = []
        if panel.closed:
            return
        panel.stop_waiting()
        if cancelled:
            panel.set_status(_("Cancelled."))
        elif fixed.result is None or not good:
            self.fail(failed[0].error)
        else:
            self._tell(path, good, failed)
        panel.announce(panel.ui.batchStatusLabel.text)
        for item in failed:
            panel.log(f"{item.name}: {item.error}")
        panel.refresh()

    def _tell(self, path: Path, good: list[Item], failed: list[Item]) -> None:
        text = _("{count} pairs are in {file}, for regcore register-all.").format(count=len(good), file=path)
        if failed:
            text += " " + _("The first that failed: {name}: {error}").format(
                name=failed[0].name, error=failed[0].error
            )
        self.panel.set_status(text, Tone.normal if failed else Tone.good)
        self.panel.log(text)
