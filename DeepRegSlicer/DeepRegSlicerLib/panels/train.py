"""The Train panel: settings of a training, its start, its progress with a live chart, stop and resume."""

import enum
from pathlib import Path

import ctk
from slicer.i18n import tr as _

from RegCore.progress import duration
from RegCore.training.history import best_epoch, judged_by
from RegCore.training.presets import LEARNING_RATES, DatasetLayout, TrainingPreset, inspect_dataset

from ..nodes.chart import loss_chart
from ..nodes.showing import show_chart
from ..training import (
    TrainingStopped,
    can_resume,
    follow,
    model_in,
    read_history,
    train,
    unused_folder,
)
from .dataset import DatasetSection
from .fields import Fields, change_of, offer
from .panel import Panel, Tone, colour, fit_to_current, handler
from .training_form import NAMES, SLICREG, TrainingForm, choices


class State(enum.Enum):
    """What the training that the panel watches is doing."""

    idle = enum.auto()
    training = enum.auto()
    stopping = enum.auto()  # after its present step, with a checkpoint; a second click ends it at once


FIRST_NAME = "training-1"
TAB = 1  # the place of this panel among the tabs


class TrainPanel(Panel):
    """Binds the widgets of Train.ui to a training.

    The scene gets the chart alone: closing it stops nothing, and brings the chart back on demand only.
    """

    def __init__(self, ui, register):
        """ui: the widgets by name. register: the RegisterPanel, which can use what was trained."""
        super().__init__(ui, ui.trainStatusLabel, ui.trainLogText)
        self.register = register
        self.state = State.idle
        self.chart = None
        self._method = ""  # of the training that ended last
        ui.foundLabel.setStyleSheet(f"color: {colour(ui.foundLabel, Tone.hint)};")
        for name, offered in choices().items():
            offer(getattr(ui, name), offered)
        ui.outputSelector.currentIndex = ui.outputSelector.findData(TrainingPreset.method_for("unet"))
        paths = ctk.ctkPathLineEdit
        for line in (ui.trainPath, ui.validPath, ui.resultsPath, ui.scansPath, ui.watchPath):
            line.filters = paths.Dirs | paths.Readable | paths.Executable
        for line in (ui.yamlPath, ui.startPath, ui.templatePath):
            line.filters = paths.Files | paths.Readable
        self.fields = Fields(ui, NAMES, "DeepRegSlicer/Train", self.update)
        self.form = TrainingForm(ui, self.fields)
        if not self.fields["resultsPath"]:
            self.fields["resultsPath"] = str(Path.home() / "DeepRegSlicer")
        change_of(ui.trainPath).connect(self.on_training_folder)
        change_of(ui.networkSelector).connect(self.on_network)
        ui.trainButton.clicked.connect(self.on_train)
        ui.stopButton.clicked.connect(self.on_stop)
        ui.resumeButton.clicked.connect(self.on_resume)
        ui.showChartButton.clicked.connect(self.on_show_chart)
        ui.useModelButton.clicked.connect(self.on_use_model)
        register.ui.installButton.clicked.connect(self.update)  # after the RegisterPanel, which installs
        fit_to_current(register.ui.tabs)
        self.dataset = DatasetSection(self)
        self._describe_folder()
        self.update()
        if self.run is None and can_resume(self.folder):
            text = _("The training '{name}' was stopped after {count} epochs: Resume goes on.")
            self.set_status(text.format(name=self.folder.name, count=len(self.history())))

    def close(self) -> None:
        """Keep the settings. What runs stops with a checkpoint, or goes on; no widget is touched any more."""
        self.closed = True
        self.fields.keep()
        if self.run is not None:
            self.run.detach()

    @property
    def folder(self) -> Path:
        """The folder of the training that runs, else of that name."""
        if self.run is not None:
            return self.run.folder
        name = self.fields["nameEdit"].strip() or FIRST_NAME
        return Path(self.fields["resultsPath"]).absolute() / name

    # ---- what can be done ----

    def choices(self) -> tuple:
        """The values in the form, and what is missing."""
        return (*self.fields.values().items(), *self.register.missing)

    def update(self) -> None:
        """Show what belongs to the settings, enable what can be used now and say why the rest can't."""
        if self.closed:
            return
        if self.run is None:
            self._find_running()
        ui, problem, running = self.ui, self.validate(), self.run is not None
        self.form.show_rows()
        ui.trainButton.enabled = not problem
        ui.trainButton.toolTip = problem or _("Begin a training")
        ui.stopButton.enabled = running and (self.state is State.training or self.run.can_be_killed)
        ui.resumeButton.enabled = (
            not running and not self.register.lacks_packages() and can_resume(self.folder)
        )
        ui.showChartButton.enabled = drawable = bool(self.history())
        ui.progressSection.visible = running or drawable
        usable = self._method != "conditional" and model_in(self.folder) is not None
        ui.useModelButton.enabled = usable
        ui.nameEdit.setPlaceholderText(unused_folder(self.folder).name)
        self.set_hint(problem or _("Ready"))

    def validate(self) -> str:
        """Why Train can't be clicked, empty if it can."""
        if self.run is not None:
            return _("A training is running")
        if self.register.lacks_packages():
            return _("Install the missing packages first")
        return self.form.validate()

    def history(self) -> list[dict]:
        """The figures of the epochs of the training of that name."""
        return self.run.history if self.run is not None else read_history(self.folder)

    def on_training_folder(self) -> None:
        """Say what the folder holds, and set the form to it."""
        found = self._describe_folder()
        if found is not None:
            self.fields["kindSelector"] = found.kind
            self.fields["labelsCheckBox"] = found.labeled
        self.update()

    def on_network(self) -> None:
        """Propose a learning rate and a field that suit the network."""
        network, method = self.fields["networkSelector"], self.fields["outputSelector"]
        self.fields["rateSpinBox"] = LEARNING_RATES[network]
        self.fields["outputSelector"] = TrainingPreset.method_for(network, method)

    def _describe_folder(self) -> DatasetLayout | None:
        found = inspect_dataset(Path(self.fields["trainPath"]))
        if found is None:
            text = _("This folder has neither images nor fixed_images and moving_images.")
            self.ui.foundLabel.text = text if self.fields["trainPath"] else ""
        else:
            noun = {"paired": _("pairs"), "unpaired": _("images"), "grouped": _("groups")}[found.kind]
            text = f"{found.count} {noun}" if found.count else f"{noun}, {found.format}"
            labels = _("with labels") if found.labeled else _("without labels")
            self.ui.foundLabel.text = _("Found: {what}, {labels}").format(what=text, labels=labels)
        return found

    # ---- start, progress, end ----

    @handler
    def on_train(self) -> None:
        """Begin a training, in a folder that is not there yet."""
        fields = self.fields
        folder = unused_folder(self.folder)
        fields["nameEdit"] = folder.name
        start, most = fields["startPath"] or None, fields["maxEpochsSpinBox"] or None
        self._begin(self.form.config(folder), folder, start_from=start, max_epochs=most)

    @handler
    def on_resume(self) -> None:
        """Go on with the training of that name, with the configuration in its folder."""
        self._begin(None, self.folder, resume=True)

    def _find_running(self) -> None:
        """Watch the training that another process does under that name, if there is one."""
        self.run = follow(self.folder, progress=self.on_progress, done=self.on_done)
        if self.run is not None:
            self._show_begin()
            self.set_status(_("The training '{name}' goes on.").format(name=self.folder.name))

    def _show_begin(self) -> None:
        """Show that a training is under way of which nothing is known yet."""
        ui = self.ui
        self._method = ""
        self.chart = None
        ui.trainProgressBar.value = 0
        self._set_state(State.training)
        for value in (ui.epochValue, ui.lossValue, ui.validationValue, ui.leftValue):
            value.text = ""

    def _begin(self, config, folder: Path, resume=False, start_from=None, max_epochs=None) -> None:
        self.fields.keep()
        self._show_begin()
        self.set_status(_("Preparing …"))
        self.log(_("Training in {folder}").format(folder=folder))
        self.run = train(
            config,
            folder,
            resume=resume,
            start_from=start_from,
            max_epochs=max_epochs,
            device=self.fields["trainDeviceSelector"],
            stays=self.fields["staysCheckBox"],
            wait=False,
            progress=self.on_progress,
            done=self.on_done,
        )
        self.update()

    def on_progress(self, fraction: float, stage: str, values: dict) -> None:
        """Show how far it is; at the end of an epoch, draw its losses."""
        if self.closed:
            return
        ui = self.ui
        ui.trainProgressBar.value = round(100 * fraction)
        self._title(f" ({round(100 * fraction)} %)")
        self.announce(stage, fraction)
        if self.state is State.training:
            self.set_status(stage[:1].upper() + stage[1:])
        if "loss" not in values:
            self.log(stage)
            return
        ui.epochValue.text = f"{values['epoch']} / {values['epochs']}"
        ui.lossValue.text = f"{values['loss']:.4f}"
        ui.leftValue.text = duration(values["seconds_left"])
        if "learning_rate" in values:
            self._close_epoch(values)

    def _close_epoch(self, values: dict) -> None:
        best = best_epoch(self.run.history)
        if "val_loss" in values:
            text = _("{loss:.4f}, best {best:.4f} in epoch {epoch}")
            self.ui.validationValue.text = text.format(
                loss=values["val_loss"], best=best["val_loss"], epoch=best["epoch"]
            )
        losses = [f"{name} {values[name]:.5g}" for name in ("loss", "val_loss") if name in values]
        self.log(f"{_('epoch')} {values['epoch']}: {', '.join(losses)}")
        if self.chart is None:
            self.on_show_chart()
        elif self.chart.is_there():
            self.chart.show(self.run.history)
        self.update()

    @handler
    def on_stop(self) -> None:
        """Ask the training to stop after its step; asked again, at once."""
        if self.run is None:
            return
        again = self.state is State.stopping
        self.set_status(
            _("Stopping …") if again else _("Stopping after the present step, a checkpoint is kept …")
        )
        self._set_state(State.stopping)
        self.run.stop()
        self.update()

    def on_done(self, run) -> None:
        """Show the result, or why there is none."""
        self.run = None
        if self.closed:
            return
        self._set_state(State.idle)
        self.ui.leftValue.text = "–"
        self._title("")
        try:
            if isinstance(run.error, TrainingStopped):
                resumable = can_resume(run.folder)
                kept = _("Stopped. Resume goes on from the checkpoint.")
                nothing = _("Stopped before there was anything to keep.")
                if self.form.source == SLICREG and self.form.prepared(run.folder).is_dir():
                    nothing = _("Stopped. The scans prepared so far are kept: Train goes on with them.")
                self.fail(run.error, kept if resumable else nothing, Tone.normal)
            elif run.error is not None:
                self._explain(run.error)
            else:
                self.succeed(run.result)
        except Exception as error:
            self.fail(error)
        self.announce(self.ui.trainStatusLabel.text)
        self.update()

    def succeed(self, result) -> None:
        """Say which epoch is the best."""
        self._method = result.method
        best = best_epoch(result.history)
        what = _("validation loss") if "val_loss" in best else _("loss")
        text = _("{ended}. Epoch {epoch} of {count} is the best, with a {what} of {loss:.4f}.")
        ended = _("Stopped early") if result.ended == "stopped early" else _("Finished")
        told = {"count": len(result.history), "epoch": best["epoch"], "what": what, "loss": judged_by(best)}
        text = text.format(ended=ended, **told)
        self.set_status(text, Tone.good)
        self.log(text)
        self.log(str(result.model))

    def _explain(self, error: Exception) -> None:
        """Say why a training brought no result; offer what mends it."""
        self.fail(error)
        self.register.offer_to_install(error)

    def stop_waiting(self) -> None:
        """Show that nothing is under way any more."""
        self._set_state(State.idle)

    def _set_state(self, state: State) -> None:
        """Note what the training is doing, and say on the button what a click does."""
        self.state, button = state, self.ui.stopButton
        stopping = state is State.stopping and self.run.can_be_killed
        button.text = _("Stop now") if stopping else _("Stop")
        now, later = (
            _("Do not wait: what was trained since the last checkpoint is lost"),
            _("Stop after the present step; a checkpoint is kept"),
        )
        button.toolTip = now if stopping else later
        self.ui.trainProgressBar.visible = state is not State.idle

    def _title(self, more: str) -> None:
        """Say on the tab how far the training is, for who looks at the other one."""
        self.register.ui.tabs.setTabText(TAB, _("Train") + more)

    # ---- afterwards ----

    @handler
    def on_show_chart(self) -> None:
        """Put the losses of the training of that name into the scene, and into the plot view."""
        self.chart = loss_chart(str(self.folder), self.folder.name)
        self.chart.show(self.history())
        show_chart(self.chart.chart)

    @handler
    def on_use_model(self) -> None:
        """Make the best model the method of the Register panel."""
        self.register.use_model(model_in(self.folder))
        self.register.ui.tabs.currentIndex = 0
