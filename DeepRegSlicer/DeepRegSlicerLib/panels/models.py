"""The Models panel: the trained models on this computer, their cards, import, export, deletion, use."""

from pathlib import Path

import ctk
import slicer
from slicer.i18n import tr as _

from .. import library
from ..paths import typed_path
from .asking import AskingPanel
from .panel import handler


class ModelsPanel(AskingPanel):
    """Binds the widgets of Models.ui to the library of models."""

    def __init__(self, ui, register, train):
        """ui: the widgets by name. register: the RegisterPanel. train: the TrainPanel."""
        super().__init__(ui, ui.modelsStatusLabel, ui.modelsLogText, ui.modelsProgressBar)
        self.register, self.train = register, train
        self._entries: list[library.Entry] = []
        self._card_of: library.Entry | None = None  # whose card is shown or asked for
        self._card: dict | None = None  # once it is there
        self._listing = False
        ui.modelFilePath.filters = ctk.ctkPathLineEdit.Files | ctk.ctkPathLineEdit.Dirs
        ui.modelFilePath.currentPath = ""
        ui.modelList.currentRowChanged.connect(self.on_choice)
        ui.importButton.clicked.connect(self.on_import)
        ui.exportButton.clicked.connect(self.on_export)
        ui.deleteButton.clicked.connect(self.on_delete)
        ui.useButton.clicked.connect(self.on_use)
        ui.fineTuneButton.clicked.connect(self.on_fine_tune)
        self.refresh()

    def choices(self) -> tuple:
        """The model that is chosen."""
        return (self.chosen(),)

    def chosen(self) -> library.Entry | None:
        """The entry of the list that is chosen."""
        row = self.ui.modelList.currentRow
        return self._entries[row] if 0 <= row < len(self._entries) else None

    def refresh(self, path: Path | None = None) -> None:
        """List the models again; choose the one of that file, or what was chosen before."""
        before = path or (self.chosen() and self.chosen().path)
        self._entries = library.models(Path(self.train.fields["resultsPath"]))
        self._listing = True
        self.ui.modelList.clear()
        for entry in self._entries:
            other = _("{name}, of the extension") if entry.shipped else _("{name}, trained here")
            self.ui.modelList.addItem(entry.name if entry.own else other.format(name=entry.name))
        places = [n for n, entry in enumerate(self._entries) if entry.path == before]
        if places:
            self.ui.modelList.setCurrentRow(places[0])
        self._listing = False
        self.on_choice()

    def update(self) -> None:
        """Enable what can be used now."""
        if self.closed:
            return
        ui, entry, free = self.ui, self.chosen(), self.run is None
        ui.importButton.enabled = free
        ui.exportButton.enabled = free and entry is not None
        ui.deleteButton.enabled = free and entry is not None and entry.own
        ui.useButton.enabled = entry is not None
        ui.fineTuneButton.enabled = (
            entry == self._card_of and self._card is not None and self.train.form.can_be(self._card)
        )
        if entry is None:
            ui.cardLabel.text = _("Choose a model.")
        self.set_hint(_("Ready"))

    @handler
    def on_choice(self) -> None:
        """Another model was chosen: show its card."""
        if self._listing:
            return  # nothing is chosen in a list that is being filled
        entry = self.chosen()
        if (entry is not None and entry == self._card_of) or self.run is not None:
            self.update()
            return
        self.ui.notesText.plainText, self._card_of, self._card = "", entry, None
        if entry is None:
            self.update()
            return
        self.ui.cardLabel.text = _("Reading …")
        self.ask("model", {"path": str(entry.path)}, lambda card: self._show_card(entry, card))

    def _show_card(self, entry: library.Entry, card: dict) -> None:
        if self.chosen() != entry:
            self.on_choice()
            return
        self._card = card
        self.ui.cardLabel.text = "\n".join(f"{title}: {text}" for title, text in lines_of(card))
        self.ui.notesText.plainText = card["notes"]

    @handler
    def on_import(self) -> None:
        """Copy the model of a file into the list."""
        typed = typed_path(self.ui.modelFilePath.currentPath)
        target = library.place_for(Path(typed))

        def answer(card: dict) -> None:
            self.refresh(target)
            self.done(_("The model is in the list as '{name}'.").format(name=target.stem))

        self.ask("model", {"path": typed, "to": str(target)}, answer)

    @handler
    def on_export(self) -> None:
        """Write a copy of the chosen model, with its notes."""
        entry = self.chosen()
        target = library.free_file(typed_path(self.ui.modelFilePath.currentPath), entry.name)

        def answer(card: dict) -> None:
            self.done(_("The model '{name}' is written to {file}.").format(name=entry.name, file=target))

        arguments = {"path": str(entry.path), "to": str(target), "notes": self.ui.notesText.plainText}
        self.ask("model", arguments, answer)

    @handler
    def on_delete(self) -> None:
        """Delete an imported model, after a question."""
        entry = self.chosen()
        question = _("Delete the model '{name}' ({file})?").format(name=entry.name, file=entry.path)
        if slicer.util.confirmOkCancelDisplay(question):
            library.delete(entry)
            self.refresh()
            self.done(_("The model '{name}' is deleted.").format(name=entry.name))

    @handler
    def on_use(self) -> None:
        """Make the chosen model the method of the Register panel."""
        self.register.use_model(self.chosen().path)
        self.register.ui.tabs.currentIndex = 0

    @handler
    def on_fine_tune(self) -> None:
        """Fill in the form of the Train tab for a training that begins with the chosen model."""
        self.train.form.start_from(self.chosen().path, self._card)
        self.register.ui.tabs.currentIndex = 1
        self.train.set_status(
            _("The form is set to go on from '{name}': choose the data and click Train.").format(
                name=self.chosen().name
            )
        )


def _spacing(sizes: dict) -> str:
    """The size of the voxels of a training, of both sides where they differ; "" for a model that has none."""
    texts = {side: " × ".join(f"{length:.3g}" for length in size) for side, size in sizes.items()}
    if len(set(texts.values())) < 2:
        return "".join(_("{size} mm").format(size=text) for text in set(texts.values()))
    return _("{fixed} mm fixed, {moving} mm moving").format(**texts)


def _labels(card: dict) -> str:
    """The structures whose labels took part in the training, as far as they are known."""
    if not card["labeled"]:
        return _("none")
    return ", ".join(card["structures"]) or _("took part in the training")


def lines_of(card: dict) -> list[tuple[str, str]]:
    """What a model says of itself, as pairs of a title and a text."""
    size = " × ".join(map(str, card["fixed_size"]))
    kinds = {"ddf": _("a displacement field"), "dvf": _("a velocity field"), "affine": _("an affine map")}
    found = [
        (_("Network"), card["network"]),
        (_("Predicts"), kinds.get(card["method"], card["method"])),
        (_("Grid"), size),
        (_("Spacing"), _spacing(card["spacing"])),
        (_("Axes"), " / ".join(card["axes"])),
        (_("Labels"), _labels(card)),
        (_("Weights"), f"{card['weights']:,}"),
        (_("Epochs"), str(card["epochs"] or "")),
        (_("Data"), card["data"]),
        (_("Figures"), card["figures"]),
    ]
    return [(title, text) for title, text in found if text]
