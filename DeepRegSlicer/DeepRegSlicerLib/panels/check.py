"""What is shown of a result: tables of structures and landmarks, ways to look at it, maps, chart, report."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import ctk
import qt
import slicer
from slicer.i18n import tr as _

import RegCore
from RegCore.space.geometry import InputError

from .. import nodes
from ..nodes import checking
from ..nodes.chart import loss_chart
from ..nodes.showing import show_chart
from ..paths import short, typed_path
from ..process import shared_worker
from ..recalling import keep_result, recall_result
from ..run import Question
from . import results
from .panel import Section, Tone, handler

FLICKER_MILLISECONDS = 500
WIDE = 84  # pixels of a column with a figure before and after
LANDMARKS_SHOWN = 6  # more are scrolled
MAPS = {"jacobian": (0.0, 2.0), "displacement": (0.0, 20.0)}  # window in which a map is shown


@dataclass(frozen=True)
class Shown:
    """A result and what it was made of.

    run: the RegistrationRun. losses: rows with the number of the step as `epoch`, and `loss`. settings: what
    was asked for, as pairs of texts.
    """

    run: object
    losses: list[dict]
    settings: list[tuple[str, str]]


class CheckSection(Section):
    """The widgets of Check.ui, which belong to the last result."""

    def __init__(self, panel, ui):
        super().__init__(panel, ui)
        self.shown: Shown | None = None
        self._on: dict[str, object] = {}  # what is switched on, by the name of its button
        self._flicker = qt.QTimer()
        self._flicker.setInterval(FLICKER_MILLISECONDS)
        self._flicker.timeout.connect(self.on_flick)
        self._front = True
        ui.reportPath.filters = ctk.ctkPathLineEdit.Dirs | ctk.ctkPathLineEdit.Writable
        if not ui.reportPath.currentPath:
            ui.reportPath.currentPath = str(Path.home() / "DeepRegSlicer" / "reports")
        ui.blendSlider.valueChanged.connect(self.on_blend)
        ui.checkerboardButton.toggled.connect(self.on_checkerboard)
        ui.flickerButton.toggled.connect(self.on_flicker)
        ui.contoursButton.toggled.connect(self.on_contours)
        ui.gridButton.toggled.connect(self.on_grid)
        ui.mapsButton.clicked.connect(self.on_maps)
        ui.lossButton.clicked.connect(self.on_losses)
        ui.reportButton.clicked.connect(self.on_report)
        ui.landmarkTable.itemSelectionChanged.connect(self.on_landmark)

    def reset(self) -> None:
        """Switch everything off, as before another run, or when the panel or the scene is closed."""
        ui = self.ui
        for button in (ui.checkerboardButton, ui.flickerButton, ui.contoursButton, ui.gridButton):
            button.checked = False
        self._flicker.stop()

    def forget(self) -> None:
        """There is no result any more."""
        self.reset()
        self.shown = None

    def show(self, shown: Shown) -> None:
        """Show a result that has just come, and keep it with its nodes."""
        about = {"losses": [row["loss"] for row in shown.losses], "settings": shown.settings}
        keep_result(shown.run, about)
        self._fill(shown)
        self.ui.blendSlider.value = 0.5

    def recall(self, p) -> None:
        """Show the result that the chosen outputs are of, as in a scene that was loaded; change no view."""
        for node in (p.outputTransform, p.warpedVolume, p.warpedSegmentation):
            found = node and recall_result(node)
            if found and found[0].inputs[:2] == (p.fixedVolume, p.movingVolume):
                losses = [{"epoch": n + 1, "loss": loss} for n, loss in enumerate(found[1]["losses"])]
                self._fill(Shown(found[0], losses, [tuple(pair) for pair in found[1]["settings"]]))
                return

    def _fill(self, shown: Shown) -> None:
        self.shown, ui, result = shown, self.ui, shown.run.result
        table, section = self.panel.ui.resultTable, self.panel.ui.resultSection
        results.fill(table, results.rows(result.metrics, result.seconds, each=not result.structures))
        section.visible = True
        structures, landmarks = result.structures, result.landmark_errors
        ui.structureTable.visible = bool(structures)
        ui.landmarkTable.visible = bool(landmarks)
        results.put(ui.structureTable, results.structure_rows(structures), WIDE)
        results.put(ui.landmarkTable, results.landmark_rows(landmarks), shown=LANDMARKS_SHOWN)
        seen = result.warped_volume is not None or bool(result.applied)
        ui.blendSlider.enabled = ui.flickerButton.enabled = seen
        ui.checkerboardButton.enabled = checking.same_grid(shown.run.fixed, result.warped_volume)
        ui.contoursButton.enabled = shown.run.inputs[2] is not None or result.warped_segmentation is not None
        ui.lossButton.enabled = bool(shown.losses)
        ui.gridButton.enabled = result.transform is not None

    def update_buttons(self, busy: bool) -> None:
        """While the process works, it can't be asked for anything else."""
        self.ui.mapsButton.enabled = self.ui.reportButton.enabled = not busy

    # ---- in the slice views ----

    def _present(self, *wanted) -> None:
        """Raise InputError if one of these nodes left the scene."""
        gone = [n.GetName() for n in wanted if n is not None and not slicer.mrmlScene.IsNodePresent(n)]
        if gone:
            text = _("'{name}' is not in the scene any more: register again.")
            raise InputError(text.format(name=gone[0]))

    def _switch(self, name: str, make) -> None:
        """Keep what `make` shows while a button is down, and remove it when it is up."""
        if getattr(self.ui, name).checked:
            try:
                self._on[name] = make()
            except InputError:
                getattr(self.ui, name).checked = False
                raise
        elif name in self._on:
            self._on.pop(name).remove()

    @handler
    def on_blend(self) -> None:
        """The slider was moved."""
        checking.blend(self.ui.blendSlider.value)

    @handler
    def on_checkerboard(self) -> None:
        """The checkerboard was switched on or off."""

        def make():
            run = self.shown.run
            self._present(run.fixed, run.result.warped_volume)
            self.ui.flickerButton.checked = False
            return checking.Checkerboard(run.fixed, run.result.warped_volume, self.ui.blendSlider.value)

        self._switch("checkerboardButton", make)

    @handler
    def on_flicker(self) -> None:
        """The flicker was switched on or off."""
        if self.ui.flickerButton.checked:
            self.ui.checkerboardButton.checked = False
            self._front = True
            self._flicker.start()
        else:
            self._flicker.stop()
            checking.blend(self.ui.blendSlider.value)

    def on_flick(self) -> None:
        """Show the other one of the two volumes."""
        self._front = not self._front
        checking.blend(float(self._front))

    @handler
    def on_contours(self) -> None:
        """The contours were switched on or off."""

        def make():
            run = self.shown.run
            segmentations = (run.inputs[2], run.result.warped_segmentation, run.inputs[3])
            self._present(*segmentations)
            return checking.Contours(*segmentations)

        self._switch("contoursButton", make)

    @handler
    def on_grid(self) -> None:
        """The deformation grid was switched on or off."""

        def make():
            self._present(self.shown.run.result.transform, self.shown.run.fixed)
            return checking.DeformationGrid(self.shown.run.result.transform, self.shown.run.fixed)

        self._switch("gridButton", make)

    @handler
    def on_landmark(self) -> None:
        """A row of the landmarks was chosen."""
        row = self.ui.landmarkTable.currentRow()
        fixed = self.panel.parameters and self.panel.parameters.fixedLandmarks
        if fixed is None or row < 0:
            return
        name = self.ui.landmarkTable.item(row, 0).text()
        places = [
            n for n in range(fixed.GetNumberOfControlPoints()) if fixed.GetNthControlPointLabel(n) == name
        ]
        if places:
            checking.jump_to(fixed.GetNthControlPointPositionWorld(places[0]))

    # ---- what the process makes ----

    def _ask(self, command: str, arguments: dict, answer) -> None:
        """Ask the process; answer(result) is called when it is there."""

        def done(run) -> None:
            self.panel.finish()
            self.panel.take(run, answer)

        self.panel.begin(lambda: Question(shared_worker(), command, arguments, self.panel.on_progress, done))

    def _mapping(self, fixed):
        """The transform as it is in the scene now, or as it came where it is no node."""
        node, mapping = self.shown.run.result.transform, self.shown.run.mapping
        if node is None and mapping is None:
            raise InputError(_("The scene does not hold the transform of this result: register again."))
        return mapping if node is None else nodes.field_of(node, fixed.geometry)

    @handler
    def on_maps(self) -> None:
        """Make the maps of the deformation."""
        run, name = self.shown.run, self.shown.run.result.name
        beside = run.result.transform or run.moving
        self._present(beside, run.fixed)
        fixed = nodes.volume(run.fixed)
        arguments = {"transform": self._mapping(fixed), "fixed": fixed}

        def answer(found: dict) -> None:
            titles = {"jacobian": _("{name} Jacobian"), "displacement": _("{name} displacement")}
            made = [
                nodes.add_map(found[key], title.format(name=name), beside, MAPS[key])
                for key, title in titles.items()
            ]
            slicer.util.setSliceViewerLayers(background=run.fixed, foreground=made[0], foregroundOpacity=0.5)
            text = _("The maps are '{first}' and '{second}'.")
            self.panel.set_status(text.format(first=made[0].GetName(), second=made[1].GetName()), Tone.good)

        self._ask("maps", arguments, answer)

    @handler
    def on_losses(self) -> None:
        """Draw what the optimiser minimised."""
        result = self.shown.run.result
        of = result.nodes()[0] if result.nodes() else self.shown.run.moving
        self._present(of)
        chart = loss_chart("", result.name, _("Step"), of)
        chart.show(self.shown.losses)
        show_chart(chart.chart)

    @handler
    def on_report(self) -> None:
        """Write the page about the result."""
        run, result = self.shown.run, self.shown.run.result
        self._present(run.fixed, run.moving, result.transform, *run.inputs[2:4])
        below, name = result.transform, result.name
        fixed = nodes.volume(run.fixed)
        fixed_labels, moving_labels, _structures = nodes.label_volumes(*run.inputs[2:4], below)
        folder = typed_path(self.ui.reportPath.currentPath) or str(Path.home())
        self.ui.reportPath.addCurrentPathToHistory()
        arguments = {
            "fixed": fixed,
            "moving": nodes.volume(run.moving, below),
            "transform": self._mapping(fixed),
            "fixed_labels": fixed_labels,
            "moving_labels": moving_labels,
            "title": name,
            "tables": self.tables(),
            "notes": [*results.doubts(result.metrics, result.outside), *run.notes],
            "path": str(Path(folder) / _file_name(name)),
            "metrics": {name: value for name, value in result.metrics.items() if name != "dice"},
            "method": dict(self.shown.settings).get(_("Method"), ""),
            "seconds": result.seconds,
        }

        def answer(found: dict) -> None:
            self.panel.set_status(_("The report is in {file}.").format(file=found["files"][-1]), Tone.good)

        self._ask("report", arguments, answer)

    def tables(self) -> list[tuple[str, list[list[str]]]]:
        """What the report says in tables: a title, and rows of which the first names the columns."""
        result = self.shown.run.result
        before, after = _("before"), _("after")
        rows = results.rows(result.metrics, result.seconds, each=not result.structures)
        tables = [(_("Figures"), [["", before, after], *([*row[:3]] for row in rows)])]
        if result.structures:
            head = [_("Structure"), _("Dice"), _("HD95, mm"), _("Centroid, mm")]
            # the font of the page has no arrow
            cells = [
                [text.replace("→", "-") for text, _v in row]
                for row in results.structure_rows(result.structures)
            ]
            tables.append((_("Structures, before - after"), [head, *cells]))
        if result.landmark_errors:
            cells = [[text for text, _v in row] for row in results.landmark_rows(result.landmark_errors)]
            tables.append((_("Landmarks"), [["", before, after], *cells]))
        told = [*self.shown.settings, (_("Program"), f"DeepRegSlicer {RegCore.__version__}")]
        told.append((_("Date"), datetime.now().strftime("%Y-%m-%d %H:%M")))
        tables.append((_("Settings"), [["", ""], *([*pair] for pair in told)]))
        return tables


def _file_name(name: str) -> str:
    """A node's name as that of a file, which may not hold some letters."""
    plain = "".join("_" if letter in '<>:"/\\|?*' or not letter.isprintable() else letter for letter in name)
    return short(plain).strip(" .") or "report"
