"""The Register panel: what its widgets show, and what happens when they are used."""

import time

import ctk
import slicer
from slicer.i18n import tr as _

from RegCore.space.geometry import InputError

from .. import install
from ..logic import RegistrationCancelled, RegistrationError, register_volumes
from ..nodes.showing import show_over
from ..parameters import Method
from . import results
from .panel import BAD, GOOD, NORMAL, Panel


class RegisterPanel(Panel):
    """Binds the widgets of DeepRegSlicer.ui to a registration."""

    def __init__(self, ui):
        """ui: the widgets by name, from `slicer.util.childWidgetVariables`."""
        super().__init__(ui, ui.statusLabel, ui.logText)
        self.parameters = None  # RegisterParameters, None while the scene is closed
        self.run = None
        self.missing: list[str] = []
        self._started = 0.0
        self._stage = ""
        self._closed = False
        ui.modelPath.filters = ctk.ctkPathLineEdit.Files | ctk.ctkPathLineEdit.Readable
        ui.modelPath.comboBox().editTextChanged.connect(self.on_model_path)  # of any ending, too
        ui.registerButton.clicked.connect(self.on_register)
        ui.cancelButton.clicked.connect(self.on_cancel)
        ui.installButton.clicked.connect(self.on_install)
        self.look_for_packages()

    def close(self) -> None:
        """Stop what runs; the widgets are not touched any more."""
        self._closed = True
        if self.run is not None:
            self.run.cancel()

    def set_parameters(self, parameters) -> None:
        """Use this parameter node, None for none."""
        self.parameters = parameters
        if parameters is not None and not parameters.modelFile:
            parameters.modelFile = self.ui.modelPath.currentPath  # the one used last
        self.update()

    def use_model(self, path) -> None:
        """Choose a trained model as the method."""
        if self.parameters is not None:
            self.parameters.modelFile = str(path)
            self.parameters.method = Method.trained

    def on_model_path(self) -> None:
        """A model file was typed or chosen."""
        if self.parameters is not None:
            self.parameters.modelFile = self.ui.modelPath.currentPath

    def look_for_packages(self) -> None:
        """Show what is missing, and the button that installs it; imports and installs nothing."""
        self.missing = install.missing()
        names = ", ".join(f"<b>{name}</b>" for name in self.missing)
        text = _("Registration needs Python packages that Slicer does not have yet: {names}.")
        size = " " + _("PyTorch is large: 200 MB to 3 GB.") if "torch" in self.missing else ""
        self.ui.missingLabel.text = text.format(names=names) + size
        self.ui.missingBox.visible = bool(self.missing)
        self.update()

    def update(self) -> None:
        """Enable what can be used now and say why the rest can't."""
        ui, problem = self.ui, self.validate()
        ui.registerButton.enabled = not problem
        ui.registerButton.toolTip = problem or _("Bring the moving volume onto the fixed one")
        ui.cancelButton.enabled = self.run is not None
        self.set_hint(problem or _("Ready"))
        self._update_method()

    def _update_method(self) -> None:
        """Show what belongs to the method that is chosen."""
        ui, p = self.ui, self.parameters
        ui.smoothnessSlider.enabled = ui.smoothnessSliderLabel.enabled = p is not None and p.deforms()
        trained = p is not None and p.method is Method.trained
        for widget in (ui.modelPathLabel, ui.modelPath, ui.refineCheckBoxLabel, ui.refineCheckBox):
            widget.visible = trained
        if p is not None and ui.modelPath.currentPath != p.modelFile:
            ui.modelPath.currentPath = p.modelFile

    def validate(self) -> str:
        """Why Register can't be clicked, empty if it can."""
        p = self.parameters
        if self.run is not None:
            return _("A registration is running")
        if self.missing:
            return _("Install the missing packages first")
        if p is None or p.fixedVolume is None or p.movingVolume is None:
            return _("Choose a fixed and a moving volume")
        if p.fixedVolume is p.movingVolume:
            return _("Choose two different volumes")
        if p.fixedSegmentation is not None and p.movingSegmentation is None:
            return _("Choose a moving segmentation too, or no fixed one")
        if (p.fixedLandmarks is None) != (p.movingLandmarks is None):
            return _("Choose landmarks for both volumes, or for none")
        if p.method is Method.trained and not p.modelFile:
            return _("Choose the file of a trained model")
        return ""

    def on_register(self) -> None:
        """Start; the rest follows from `on_progress` and `on_done`."""
        ui, p = self.ui, self.parameters
        ui.resultSection.visible = False
        ui.progressBar.value = 0
        ui.progressBar.visible = True
        self._stage, self._started = "", time.monotonic()
        self.set_status(_("Preparing …"))
        self.log(
            _("Registering '{moving}' to '{fixed}', {method}").format(
                moving=p.movingVolume.GetName(), fixed=p.fixedVolume.GetName(), method=p.chosen()
            )
        )
        try:
            self.run = self._start(p)
        except (InputError, RegistrationError) as error:
            self.fail(error)
        self.update()

    def _start(self, p):
        return register_volumes(
            p.fixedVolume,
            p.movingVolume,
            method=p.chosen(),
            fixed_segmentation=p.fixedSegmentation,
            moving_segmentation=p.movingSegmentation,
            fixed_landmarks=p.fixedLandmarks,
            moving_landmarks=p.movingLandmarks,
            fixed_mask=p.fixedMask,
            moving_mask=p.movingMask,
            initial_transform=p.initialTransform,
            output_transform=p.outputTransform,
            warped_volume=p.warpedVolume,
            warped_segmentation=p.warpedSegmentation,
            create_images=p.createImages,
            settings=p.settings(),
            device=p.device.value,
            seed=p.seed,
            wait=False,
            progress=self.on_progress,
            done=self.on_done,
        )

    def on_progress(self, fraction: float, stage: str, values: dict) -> None:
        """Show how far it is."""
        if self._closed:
            return
        self.ui.progressBar.value = round(100 * fraction)
        figures = [f"{_('iteration')} {values['iteration']}"] if "iteration" in values else []
        figures += [f"{_('loss')} {values['loss']:.4f}"] if "loss" in values else []
        self.set_status(" · ".join([stage[:1].upper() + stage[1:], *figures]))
        if stage != self._stage:
            self._stage = stage
            self.log(f"{time.monotonic() - self._started:6.1f} s  {stage}")

    def on_cancel(self) -> None:
        """Ask the registration to stop."""
        if self.run is not None:
            self.ui.cancelButton.enabled = False
            self.set_status(_("Cancelling …"))
            self.run.cancel()

    def on_done(self, run) -> None:
        """Show the result, or why there is none."""
        self.run = None
        if self._closed:
            return
        if run.error is not None:
            self.fail(run.error)
        else:
            self.succeed(run.result)
        self.update()

    def succeed(self, result) -> None:
        """Select the result's nodes, so that the next run overwrites them, and fill the table."""
        p, ui = self.parameters, self.ui
        ui.progressBar.value = 100
        ui.progressBar.visible = False
        if p is not None:
            if p.method is Method.trained:
                ui.modelPath.addCurrentPathToHistory()
            p.outputTransform = result.transform
            p.warpedVolume = result.warped_volume or p.warpedVolume
            p.warpedSegmentation = result.warped_segmentation or p.warpedSegmentation
            if result.warped_volume is not None:
                show_over(p.fixedVolume, result.warped_volume)
        ui.resultSection.visible = True
        results.fill(ui.resultTable, results.rows(result.metrics, result.seconds))
        seconds, name = time.monotonic() - self._started, result.transform.GetName()
        text = _("Done in {seconds:.1f} s. The result is in '{name}'.").format(seconds=seconds, name=name)
        self.set_status(text, GOOD)
        self.log(self.ui.statusLabel.text)

    def fail(self, error: Exception) -> None:
        """Say what went wrong in one sentence; the details go to the log."""
        self.ui.progressBar.visible = False
        cancelled = isinstance(error, RegistrationCancelled)
        self.set_status(
            _("Cancelled. The scene is as it was.") if cancelled else str(error), NORMAL if cancelled else BAD
        )
        self.log(str(error))
        if getattr(error, "details", ""):
            self.log(error.details)
        if getattr(error, "missing", ()):
            self.look_for_packages()

    def on_install(self) -> None:
        """Install what is missing; the user is asked by Slicer before."""
        self.ui.installButton.enabled = False
        self.set_status(_("Installing packages, this can take minutes …"))
        slicer.app.processEvents()
        try:
            install.install()
            self.set_status(_("The packages are installed."), GOOD)
        except install.InstallError as error:
            self.set_status(str(error), NORMAL if error.declined else BAD)
            self.log(str(error))
        self.ui.installButton.enabled = True
        self.look_for_packages()
