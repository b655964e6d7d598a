"""The Register panel: what its widgets show, and what happens when they are used."""

import time

import ctk
import slicer
from slicer.i18n import tr as _

from .. import install
from ..logic import RegistrationCancelled, register_volumes
from ..nodes.showing import show_over
from ..parameters import Method
from ..paths import resource
from ..process import shared_worker, stop_shared_worker
from . import results
from .apply import ApplySection
from .asked import asked, device_name, validate
from .check import CheckSection, Shown
from .fields import tame_selectors
from .outputs import OUTPUTS, OutputsSection
from .panel import Panel, Tone, handler
from .presets import PresetSection
from .segments import SegmentsSection

INPUTS = ("fixedVolume", "movingVolume", "fixedSegmentation", "movingSegmentation", "initialTransform")
PAIRED = ("Volume", "Segmentation", "Mask", "Landmarks")  # of the fixed and of the moving side


class RegisterPanel(Panel):
    """Binds the widgets of DeepRegSlicer.ui to a registration."""

    def __init__(self, ui):
        """ui: the widgets by name, from `slicer.util.childWidgetVariables`."""
        super().__init__(ui, ui.statusLabel, ui.logText)
        self.parameters = None  # RegisterParameters, None while the scene is closed
        self.missing: list[str] = []
        self.broken = False  # what is missing is there, but has to be installed again
        self._of = None  # the RegisterParameters that the run began with
        self._outputs: tuple = ()  # their nodes of OUTPUTS then
        self._started, self._stage = 0.0, ""
        self._losses: list[dict] = []  # of the run, step by step
        self._told: list[tuple[str, str]] = []  # what was asked for
        tame_selectors(ui)
        ui.modelPath.filters = ctk.ctkPathLineEdit.Files | ctk.ctkPathLineEdit.Readable
        ui.modelPath.comboBox().editTextChanged.connect(self.on_model_path)  # of any ending, too
        ui.registerButton.clicked.connect(self.on_register)
        ui.cancelButton.clicked.connect(self.on_cancel)
        ui.installButton.clicked.connect(self.on_install)
        ui.swapButton.clicked.connect(self.on_swap)
        ui.applyButton.clicked.connect(self.on_apply)
        self.applying = ApplySection(ui)
        self.outputs = OutputsSection(self)
        self.segments = SegmentsSection(self)
        self.presets = PresetSection(self)
        form = slicer.util.loadUI(str(resource("UI/Check.ui")))
        ui.resultSection.layout().addWidget(form)
        self.checking = CheckSection(self, slicer.util.childWidgetVariables(form))
        self.look_for_packages()

    def close(self) -> None:
        """Stop what runs; the widgets are not touched any more."""
        self.checking.forget()
        self.closed = True
        if self.run is not None:
            self.run.cancel()

    def forget(self) -> None:
        """Show no result any more: the scene is about to be closed."""
        self.checking.forget()
        self.ui.resultSection.visible = False

    def set_parameters(self, parameters) -> None:
        """Use this parameter node, None for none."""
        self.parameters = parameters
        self.outputs.belong_to(self._nodes(INPUTS))
        if parameters is not None and not parameters.modelFile:
            parameters.modelFile = self.ui.modelPath.currentPath  # the one used last
        if parameters is not None and self.run is None and self.checking.shown is None:
            self.checking.recall(parameters)
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
        """Show what is missing, and the button that installs it; imports and installs nothing.

        A PyTorch that the child could not use is not looked for again, since it is there.
        """
        if not self.broken:
            self.missing = install.missing()
        self._show_missing()

    def _show_missing(self) -> None:
        ui, names = self.ui, ", ".join(f"<b>{name}</b>" for name in self.missing)
        if self.broken:
            text, button = _("PyTorch is installed but can't be used."), _("Repair PyTorch")
        else:
            text = _("Registration needs Python packages that Slicer does not have yet: {names}.")
            button = _("Install the missing packages")
        size = " " + _("PyTorch is large: 200 MB to 3 GB.") if "torch" in self.missing else ""
        ui.missingLabel.text = text.format(names=names) + size
        ui.installButton.text = button
        ui.missingBox.visible = bool(self.missing)
        self.update()

    def _nodes(self, names: tuple[str, ...], of=None) -> tuple:
        p = of or self.parameters
        return () if p is None else tuple(getattr(p, name) for name in names)

    def choices(self) -> tuple:
        """The parameters other than the outputs, which the panel chooses too, and what is missing."""
        p = self.parameters
        names = () if p is None else sorted(set(p.allParameters) - set(OUTPUTS))
        return (*self._nodes(tuple(names)), *self.missing)

    def update(self) -> None:
        """Enable what can be used now and say why the rest can't."""
        if self.closed:
            return
        self.outputs.release(self._nodes(INPUTS))
        for section in (self.presets, self.outputs, self.segments):
            section.refresh()
        ui, problem = self.ui, self.validate()
        ui.registerButton.enabled = not problem
        ui.swapButton.enabled = self.parameters is not None and self.run is None
        ui.registerButton.toolTip = problem or _("Bring the moving volume onto the fixed one")
        ui.cancelButton.enabled = self.run is not None
        self.checking.update_buttons(self.run is not None)
        self.set_hint(problem or _("Ready"))
        self._update_choices()

    def _update_choices(self) -> None:
        """Show what belongs to the method that is chosen."""
        ui, p = self.ui, self.parameters
        ui.smoothnessSlider.enabled = ui.smoothnessSliderLabel.enabled = p is not None and p.deforms()
        ui.startSelector.enabled = p is not None and p.initialTransform is None
        ui.guideCheckBox.enabled = p is not None and p.deforms() and p.fixedLandmarks is not None
        trained = p is not None and p.method is Method.trained
        for widget in (ui.modelPathLabel, ui.modelPath, ui.refineCheckBoxLabel, ui.refineCheckBox):
            widget.visible = trained
        if p is not None and ui.modelPath.currentPath != p.modelFile:
            ui.modelPath.currentPath = p.modelFile

    def lacks_packages(self) -> bool:
        """Whether packages are missing without which nothing works."""
        return bool(set(self.missing) - set(install.OPTIONAL.values()))

    def validate(self) -> str:
        """Why Register can't be clicked, empty if it can."""
        p = self.parameters
        if self.run is not None:
            return _("A registration is running")
        if self.lacks_packages():
            return _("Install the missing packages first")
        return validate(p) or self.outputs.validate()

    @handler
    def on_swap(self) -> None:
        """Fixed becomes moving and moving fixed, with all that is theirs.

        The initial transform and what was to be warped along are for the other way, and go.
        """
        p = self.parameters
        if p is None:
            return
        with slicer.util.NodeModify(p):
            for kind in PAIRED:
                fixed, moving = getattr(p, f"fixed{kind}"), getattr(p, f"moving{kind}")
                setattr(p, f"fixed{kind}", moving)
                setattr(p, f"moving{kind}", fixed)
            p.initialTransform = None
            p.warp_along([])

    @handler
    def on_apply(self) -> None:
        """Put the ticked nodes under the chosen transform."""
        self.set_status(self.applying.apply(), Tone.good)
        self.log(self.ui.statusLabel.text)

    @handler
    def on_register(self) -> None:
        """Start; the rest follows from `on_progress` and `on_done`."""
        ui, p = self.ui, self.parameters
        ui.resultSection.visible = False
        self.checking.forget()
        self._told = asked(p)
        shared_worker().printed()  # what was printed before is not about this run
        shared_worker().keep_files = p.keepFiles
        self.log(
            _("Registering '{moving}' to '{fixed}', {method}").format(
                moving=p.movingVolume.GetName(), fixed=p.fixedVolume.GetName(), method=p.chosen()
            )
        )
        self._of, self._outputs = p, self._nodes(OUTPUTS)
        self.begin(lambda: self._start(p))
        for note in self.run.notes:
            self.log(note)

    def begin(self, start) -> None:
        """Show that something is under way, and keep the run that start() gives."""
        ui = self.ui
        ui.progressBar.value = 0
        ui.progressBar.visible = True
        self._stage, self._started, self._losses = "", time.monotonic(), []
        self.set_status(_("Preparing …"))
        self.run = start()
        self.update()

    def finish(self) -> None:
        """Show that nothing is under way any more."""
        self.run = None
        if not self.closed:
            self.stop_waiting()

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
            left_out=p.left_out(),
            initial_transform=p.initialTransform or p.starting(),
            output_transform=p.outputTransform,
            warped_volume=p.warpedVolume,
            warped_segmentation=p.warpedSegmentation,
            create_images=p.createImages,
            apply_to_moving=p.applyToMoving and p.createTransform and not p.createImages,
            more=self.outputs.more(),
            settings=p.settings(),
            device=p.device.value,
            seed=p.seed,
            wait=False,
            progress=self.on_progress,
            done=self.on_done,
        )

    def stop_waiting(self) -> None:
        """Show that nothing is under way any more."""
        self.ui.progressBar.visible = False

    def on_progress(self, fraction: float, stage: str, values: dict) -> None:
        """Show how far it is."""
        if self.closed:
            return
        self.ui.progressBar.value = round(100 * fraction)
        figures = [f"{_('iteration')} {values['iteration']}"] if "iteration" in values else []
        figures += [f"{_('loss')} {values['loss']:.4f}"] if "loss" in values else []
        if "loss" in values:
            self._losses.append({"epoch": len(self._losses) + 1, "loss": float(values["loss"])})
        self.set_status(" · ".join([stage[:1].upper() + stage[1:], *figures]))
        self.announce(stage, fraction)
        if "device" in values:
            self.log(_("Device: {name}").format(name=device_name(values["device"])))
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
        shared_worker().keep_files = False
        if self.closed:
            return
        try:
            if run.error is not None:
                self._explain(run.error)
            else:
                self.succeed(run)
        except Exception as error:
            self.fail(error)
        self.announce(self.ui.statusLabel.text)
        self._log_details(run)
        self.update()

    def _log_details(self, run) -> None:
        """Put into the log what was asked for: what the process printed, and where its files are."""
        printed = shared_worker().printed()
        if self.parameters is not None and self.parameters.detailedLog and printed:
            self.log(printed.rstrip())
        if run.kept is not None:
            self.log(_("The temporary files are kept in {folder}").format(folder=run.kept))

    def succeed(self, run) -> None:
        """Show the result of a run and select its nodes, so that the next run overwrites them.

        The nodes are not selected where the user chose other inputs or outputs since the run began.
        """
        p, ui, result = self._of, self.ui, run.result
        ui.progressBar.value = 100
        ui.progressBar.visible = False
        if slicer.mrmlScene.IsNodePresent(p.parameterNode):
            if p.method is Method.trained:
                ui.modelPath.addCurrentPathToHistory()
            if self._chosen_still(run):
                p.outputTransform = result.transform or p.outputTransform
                p.warpedVolume = result.warped_volume or p.warpedVolume
                p.warpedSegmentation = result.warped_segmentation or p.warpedSegmentation
        if result.warped_volume is not None or result.applied:
            show_over(run.fixed, result.warped_volume or run.moving)
        told = [*self._told, (_("Computed on"), device_name(result.device))] if result.device else self._told
        self.checking.show(Shown(run, self._losses, told))
        seconds, made = time.monotonic() - self._started, result.nodes()
        where = f" ({device_name(result.device)})" if result.device else ""
        text = _("Done in {seconds:.1f} s{where}. The result is in '{name}'.")
        if not made:
            text = _("Done in {seconds:.1f} s{where}. What was to be warped has left the scene.")
        text = text.format(seconds=seconds, where=where, name=made and made[0].GetName())
        doubts = results.doubts(result.metrics, result.outside)
        self.set_status(" ".join([text, *doubts, *run.notes]), Tone.normal if doubts else Tone.good)
        self.log(self.ui.statusLabel.text)
        self.applying.refresh()

    def _chosen_still(self, run) -> bool:
        """Whether the inputs and outputs are those that the run began with.

        An output transform of another class than the result was replaced by it, wherever it was chosen; an
        output that was deleted meanwhile left none behind.
        """
        now = self._nodes(INPUTS + OUTPUTS, self._of)
        pairs, old = zip(now, (*run.inputs, *self._outputs), strict=True), self._outputs[0]
        changed = [
            (a, b)
            for a, b in pairs
            if a is not b and not (b is old is not None and a is run.result.transform)
        ]
        deleted = [one for one in self._outputs if one and not slicer.mrmlScene.IsNodePresent(one)]
        return all(a is None and any(b is one for one in deleted) for a, b in changed)

    def _explain(self, error: Exception) -> None:
        """Say why a run brought no result; offer what mends it."""
        if isinstance(error, RegistrationCancelled):
            self.fail(error, _("Cancelled. The scene is as it was."), Tone.normal)
            return
        self.fail(error)
        self.offer_to_install(error)

    def offer_to_install(self, error: Exception) -> None:
        """Show the button that mends the installation, where that is what an error of the child is about."""
        if getattr(error, "missing", ()):
            self.missing, self.broken = list(error.missing), error.kind == "broken"
            self._spoken_of = self.choices()  # the error stays in the status line
            self._show_missing()

    @handler
    def on_install(self) -> None:
        """Install what is missing; the user is asked by Slicer before."""
        self.ui.installButton.enabled = False
        self.set_status(_("Installing packages, this can take minutes …"))
        slicer.app.processEvents()
        failure = None
        try:
            if self.broken:
                install.repair_torch()
            else:
                install.install_packages(self.missing)
            self.broken = False
            stop_shared_worker()  # the next one imports what is there now
        except Exception as error:
            failure = error
        self.ui.installButton.enabled = True
        self.look_for_packages()
        self.presets.load()  # they need one of the packages
        self.update()
        if failure is None:
            self.set_status(_("The packages are installed."), Tone.good)
        else:
            self.fail(failure, tone=Tone.normal if getattr(failure, "declined", False) else Tone.bad)
