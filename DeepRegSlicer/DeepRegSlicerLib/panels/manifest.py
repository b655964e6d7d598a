"""The button of the Batch panel that writes a manifest: the same registrations, for the command line."""

import shutil
from pathlib import Path

from slicer.i18n import tr as _

from RegCore.space.geometry import InputError

from .. import nodes
from ..batch import Batch, Item
from ..manifest import file_names, new_folder, start_saving, write_manifest
from ..nodes.exporting import named_labels, segmentation_drawn_on
from ..parameters import Start
from .panel import Section, Tone, handler

WRITTEN = (Start.automatic, Start.centres)  # starts that `regcore register-all` knows by name


class ManifestSection(Section):
    """Writes the chosen volumes, with their segmentations, and a table that ``regcore register-all`` runs."""

    def __init__(self, panel):
        """panel: the BatchPanel."""
        super().__init__(panel)
        self.ui.manifestButton.clicked.connect(self.on_write)

    @handler
    def on_write(self) -> None:
        """Write into a new folder below the one that is chosen."""
        panel, p = self.panel, self.panel.register.parameters
        panel.fields.keep()
        if p.start not in WRITTEN:
            text = _("A manifest can't say the start '{start}': choose another one in the Register tab.")
            raise InputError(text.format(start=p.start.label()))
        sources = panel.sources()
        if not sources:
            panel.set_status(_("Tick the volumes that are to be registered."))
            return
        folder = new_folder(Path(panel.fields["outPath"]))
        reads = [self._reading(p.fixedVolume), *(self._reading(*source[1:]) for source in sources)]
        names = file_names([p.fixedVolume.GetName(), *(source[0] for source in sources)])
        items = [Item(name, read) for name, read in zip(names, reads, strict=True)]
        self._how, self._folder, self._items = (p.chosen(), p.settings(), p.starting()), folder, items
        self.ui.batchProgressBar.value = 0
        self.ui.batchProgressBar.visible = True
        panel.set_status(_("Writing the volumes …"))
        panel.run = Batch(items, start_saving(folder), self._on_changed, self._on_done)
        if not panel.run.running:  # every item failed at once
            self._on_done()
        self.update()

    def _reading(self, node, sequence=None):
        """A function that reads a node of the scene; of a sequence, the item of that number."""

        def read() -> dict:
            if sequence is None:
                return {"volume": nodes.volume(node), "labels": self._labels(node)}
            opened = sequence.open(node)
            try:
                return {"volume": nodes.volume(opened), "labels": None}
            finally:
                sequence.close(node)

        return read

    def _labels(self, node):
        """The segmentation of a volume: that of the Register tab, else one that was drawn on it."""
        p = self.panel.register.parameters
        chosen = {id(p.movingVolume): p.movingSegmentation, id(p.fixedVolume): p.fixedSegmentation}
        found = chosen.get(id(node)) or segmentation_drawn_on(node)
        return found and named_labels(found)

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
