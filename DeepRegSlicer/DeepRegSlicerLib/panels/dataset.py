"""A data set made from the scene: the pair of the Register panel, written into the training folder."""

import re
from pathlib import Path

from slicer.i18n import tr as _

from RegCore.space.geometry import InputError

from .. import nodes
from ..paths import short
from ..process import shared_worker
from ..run import Question
from .panel import Section, Tone, handler


class DatasetSection(Section):
    """The button that adds a pair to the training data."""

    def __init__(self, panel):
        """panel: the TrainPanel."""
        super().__init__(panel)
        self._run = None
        self.ui.addPairButton.clicked.connect(self.on_add)

    @handler
    def on_add(self) -> None:
        """Write the pair; the training folder is a new one if none is chosen."""
        panel, p = self.panel, self.panel.register.parameters
        if p is None or p.fixedVolume is None or p.movingVolume is None or p.fixedVolume is p.movingVolume:
            raise InputError(_("Choose a fixed and a moving volume in the Register tab first."))
        if (p.fixedSegmentation is None) != (p.movingSegmentation is None):
            raise InputError(_("Choose segmentations for both volumes, or for none."))
        folder = panel.fields["trainPath"] or str(Path.home() / "DeepRegSlicer" / "data" / "train")
        labels = nodes.label_volumes(p.fixedSegmentation, p.movingSegmentation)
        parts = (re.sub(r"[^\w-]+", "_", node.GetName()) for node in (p.movingVolume, p.fixedVolume))
        name = "_to_".join(short(part) for part in parts).strip("_")
        arguments = {
            "folder": folder,
            "name": name,
            "fixed": nodes.volume(p.fixedVolume),
            "moving": nodes.volume(p.movingVolume),
            "fixed_labels": labels[0],
            "moving_labels": labels[1],
        }
        self._run = Question(
            shared_worker(),
            "pair",
            arguments,
            self._on_progress,
            lambda run: self._on_done(run, folder, name),
        )
        self.ui.addPairButton.enabled = False
        panel.set_status(_("Writing the pair …"))

    def _on_progress(self, fraction: float, stage: str, values: dict) -> None:
        if not self.panel.closed:
            self.panel.announce(stage, fraction)

    def _on_done(self, run, folder: str, name: str) -> None:
        def answer(found: dict) -> None:
            self.panel.fields["trainPath"] = folder
            self.panel.on_training_folder()
            text = _("The pair '{name}' is in {folder}.").format(name=name, folder=folder)
            self.panel.set_status(text, Tone.good)

        self._run = None
        if not self.panel.closed:
            self.ui.addPairButton.enabled = True
        self.panel.take(run, answer)
