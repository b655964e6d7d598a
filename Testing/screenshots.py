"""Pictures the panels in light and dark, slice views of a registration, and the chart of a training.

Into Docs/screenshots, run by `make screenshots`; `python Testing/screenshots.py --help` tells of other
folders and methods. The panels are the shipped ones in the test host, the computation is the real one, and
the slice views are drawn by Slicer's own code.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "Testing"), str(ROOT)]

import SlicerHost  # noqa: E402

PANEL = (400, 560)  # pixels; grows with its contents
VIEW = (420, 400)
CHART = (560, 380)
TRAINING = {"epochs": 30, "size": 24, "images": 24}  # of the network in the pictures
FIXED_COLOUR, MOVING_COLOUR = (0.25, 0.95, 0.45), (1.0, 0.55, 0.1)
SHAPES = {"fixed_shape": (80, 68, 60), "moving_shape": (72, 70, 64)}
GAP = 6  # pixels between pictures


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "Docs" / "screenshots")
    parser.add_argument("--method", default="auto")
    parser.add_argument("--quality", default="balanced")
    parser.add_argument("--minutes", type=float, default=15, help="how long to wait for the registration")
    return parser.parse_args(arguments)


def use_theme(dark: bool) -> str:
    """Colours like those of a theme of Slicer, for what is opened from now on; the ending of file names."""
    import qt

    application = qt.QApplication.instance()
    application.setStyle("Fusion")
    palette = application.style().standardPalette()
    colours = {"Window": "#323232", "Base": "#232323", "AlternateBase": "#2b2b2b", "Button": "#3c3c3c"}
    colours |= dict.fromkeys(("WindowText", "Text", "ButtonText", "ToolTipText", "BrightText"), "#e6e6e6")
    groups = (qt.QPalette.Active, qt.QPalette.Inactive, qt.QPalette.Disabled)
    for role, value in (colours | {"PlaceholderText": "#9a9a9a"}).items() if dark else ():
        for group in groups:
            off = group == qt.QPalette.Disabled and role in ("WindowText", "Text", "ButtonText")
            palette.setColor(group, getattr(qt.QPalette, role), qt.QColor("#8a8a8a" if off else value))
    application.setPalette(palette)
    return "_dark" if dark else ""


def height_of(panel) -> int:
    """Pixels that the panel needs, with a little room."""
    return panel.panel.layout().minimumSize().height() + 20


def choose(panel, made) -> None:
    """Select the synthetic phantom in the panel, landmarks included."""
    ui = panel.ui
    ui.fixedVolumeSelector.setCurrentNode(made.fixed)
    ui.movingVolumeSelector.setCurrentNode(made.moving)
    ui.fixedSegmentationSelector.setCurrentNode(made.fixed_segmentation)
    ui.movingSegmentationSelector.setCurrentNode(made.moving_segmentation)
    ui.fixedLandmarksSelector.setCurrentNode(made.fixed_landmarks)
    ui.movingLandmarksSelector.setCurrentNode(made.moving_landmarks)


def in_both_themes(host, panel, out: Path, name: str, grow: bool = True) -> None:
    """Picture the panel in light and in dark colours; what it says keeps its tone."""
    working, text = panel.widget.panel, panel.ui.statusLabel.text
    shown = working.checking.shown
    for dark in (True, False):
        ending = use_theme(dark)
        host.spin(0.1)
        if shown is not None and working.run is None:
            working.checking.show(shown)
        working.retone(text)
        panel.widget.tabs.refresh()  # the hints of the other tabs, in the colours of this theme
        host.screenshot(panel.panel, out / f"{name}{ending}.png", PANEL)
        if grow:
            host.screenshot(panel.panel, out / f"{name}{ending}.png", (PANEL[0], height_of(panel)))


def picture_panel(host, made, options):
    """The panel idle, with its closed sections open, running and finished; returns the open module."""
    panel = host.load_module(ROOT / "DeepRegSlicer" / "DeepRegSlicer.py")
    choose(panel, made)
    working, ui = panel.widget.panel, panel.ui
    working.checking.ui.reportPath.currentPath = "reports"  # not that of whoever takes the pictures
    working.parameters.method = type(working.parameters.method)(options.method)

    def picture(name: str) -> None:
        in_both_themes(host, panel, options.out, name)

    picture("panel_idle")
    ui.advancedSection.collapsed = False
    picture("panel_advanced")
    ui.advancedSection.collapsed = True
    ui.moreOutputsSection.collapsed = False
    picture("panel_more_outputs")
    ui.moreOutputsSection.collapsed = True
    working.parameters.quality = type(working.parameters.quality)(options.quality)
    ui.registerButton.click()
    host.spin(60 * options.minutes, until=lambda: working.run is None or ui.progressBar.value >= 45)
    picture("panel_running")
    if not host.spin(60 * options.minutes, until=lambda: working.run is None):
        ui.cancelButton.click()
        host.spin(3, until=lambda: working.run is None)
    if working.parameters.outputTransform is None:
        raise SystemExit(f"The registration brought no result: {ui.statusLabel.text}")
    ui.inputsSection.collapsed = ui.outputsSection.collapsed = True
    picture("panel_finished")
    ui.inputsSection.collapsed = ui.outputsSection.collapsed = False
    return panel


def picture_error(host, panel, out: Path) -> None:
    """What the panel says of a model file that is not there."""
    working, before = panel.widget.panel, panel.widget.panel.parameters.method
    working.parameters.method = type(before).trained
    working.parameters.modelFile = "/models/liver.pt"
    panel.ui.registerButton.click()
    host.spin(60, until=lambda: working.run is None)
    in_both_themes(host, panel, out, "panel_error")
    working.parameters.method = before


def picture_batch(host, panel, out: Path) -> None:
    """The tab Batch, with the moving volume registered."""
    batch, before = panel.widget.tabs.batch, panel.widget.panel.parameters.method
    batch.fields["outPath"], batch.fields["sourceSelector"] = "registered", "volumes"
    panel.widget.panel.parameters.method = type(before).rigid
    panel.ui.tabs.currentIndex = 3
    volumes = batch.ui.volumesList
    volumes.setFixedHeight(90)
    volumes.item(0).setCheckState(host.qt.Qt.Checked)
    batch.ui.startButton.click()
    host.spin(600, until=lambda: batch.run is None)
    in_both_themes(host, panel, out, "batch", grow=False)
    panel.ui.tabs.currentIndex = 0
    panel.widget.panel.parameters.method = before


def picture_models(host, panel, out: Path) -> None:
    """The tab Models, with the card of the network that was trained."""
    panel.ui.tabs.currentIndex = 2
    models = panel.widget.tabs.models
    models.ui.modelList.setCurrentRow(0)
    host.spin(120, until=lambda: models.run is None)
    in_both_themes(host, panel, out, "models", grow=False)


def colour(segmentation, rgb) -> None:
    """All segments as outlines of one colour."""
    from SlicerHost.sliceview import show_outlines

    segments = segmentation.GetSegmentation()
    for number in range(segments.GetNumberOfSegments()):
        segments.GetNthSegment(number).SetColor(*rgb)
    show_outlines(segmentation, thickness=2)


def views(host, volume, at) -> Image.Image:
    """The volume in a coronal and an axial view, side by side, with all that is visible in the scene."""
    from SlicerHost.sliceview import SliceView

    pictures = []
    for name, orientation in (("Green", "Coronal"), ("Red", "Axial")):
        with SliceView(host, name, orientation, VIEW) as view:
            view.show(volume)
            pictures.append(Image.fromarray(view.render(at)))
    out = Image.new("RGB", (len(pictures) * VIEW[0] + GAP, VIEW[1]), "white")
    for number, picture in enumerate(pictures):
        out.paste(picture, (number * (VIEW[0] + GAP), 0))
    return out


def picture_slices(host, made, parameters, out: Path) -> None:
    """Moving and warped volume under the fixed outlines, and the deformation grid."""
    from SlicerHost.sliceview import show_deformation_grid

    warped_segmentation = parameters.warpedSegmentation
    for segmentation in (made.moving_segmentation, warped_segmentation):
        colour(segmentation, MOVING_COLOUR)
    colour(made.fixed_segmentation, FIXED_COLOUR)
    at = np.zeros(6)
    made.fixed.GetRASBounds(at)
    centre = 0.5 * (at[::2] + at[1::2]) + (0, -8, -18)  # through liver, spleen and kidneys
    warped_segmentation.GetDisplayNode().SetVisibility(False)
    views(host, made.moving, centre).save(out / "slices_before.png", optimize=True)
    warped_segmentation.GetDisplayNode().SetVisibility(True)
    made.moving_segmentation.GetDisplayNode().SetVisibility(False)
    views(host, parameters.warpedVolume, centre).save(out / "slices_after.png", optimize=True)
    for segmentation in (made.fixed_segmentation, warped_segmentation):
        segmentation.GetDisplayNode().SetVisibility(False)
    picture_checks(host, made, parameters, out, centre)
    show_deformation_grid(parameters.outputTransform, spacing_mm=10)
    views(host, parameters.warpedVolume, centre).save(out / "deformation_grid.png", optimize=True)


def picture_checks(host, made, parameters, out: Path, centre) -> None:
    """The checkerboard and the contours of both segmentations, as the section Result makes them."""
    from DeepRegSlicerLib.nodes.checking import Checkerboard, Contours

    board = Checkerboard(made.fixed, parameters.warpedVolume, 0.5)
    views(host, board.node, centre).save(out / "checkerboard.png", optimize=True)
    board.remove()
    contours = Contours(made.fixed_segmentation, parameters.warpedSegmentation, made.moving_segmentation)
    views(host, parameters.warpedVolume, centre).save(out / "contours.png", optimize=True)
    contours.remove()


def write_data(folder: Path, images: int) -> None:
    """Made-up scans with three organs, to learn from and to watch with."""
    from RegCore.samples.datasets import ScanProtocol, make_cases, write_dataset

    scan = ScanProtocol(shape=(32, 30, 28))
    for split, first, count in (("train", 0, images), ("valid", 500, images // 3)):
        write_dataset(folder / split, make_cases("unpaired", scan, count=count, first=first))


def picture_training(host, out: Path, minutes: float) -> None:
    """The Train panel filled in and at work, and the chart of the losses."""
    from SlicerHost import plotview

    panel = host.load_module(ROOT / "DeepRegSlicer" / "DeepRegSlicer.py")
    panel.ui.tabs.currentIndex = 1
    train = panel.widget.trainPanel
    ui = train.ui
    ui.trainPath.currentPath, ui.validPath.currentPath = "abdomen/train", "abdomen/valid"
    ui.resultsPath.currentPath, ui.nameEdit.text = "trainings", "abdomen"
    for letter in "IJK":
        getattr(ui, f"size{letter}SpinBox").value = TRAINING["size"]
    ui.epochsSpinBox.value = TRAINING["epochs"]
    host.screenshot(panel.panel, out / "train_form.png", (PANEL[0], height_of(panel)))
    ui.settingsSelector.currentIndex = ui.settingsSelector.findData("slicreg")
    Path("scans").mkdir()
    Path("scans/case_000.nii.gz").touch()
    ui.templatePath.currentPath, ui.scansPath.currentPath = "scans/case_000.nii.gz", "scans"
    host.screenshot(panel.panel, out / "train_slicreg.png", PANEL)
    ui.settingsSelector.currentIndex = ui.settingsSelector.findData("form")
    ui.trainButton.click()
    run, shown = train.run, 0.6 * TRAINING["epochs"]
    host.spin(60 * minutes, until=lambda: not run.running or len(run.history) >= shown)
    host.screenshot(panel.panel, out / "train_running.png", (PANEL[0], height_of(panel)))
    host.spin(60 * minutes, until=lambda: not run.running)
    if run.result is None:
        raise SystemExit(f"The training brought no result: {ui.trainStatusLabel.text}")
    plotview.save(train.chart.chart, out / "train_chart.png", CHART)
    picture_models(host, panel, out)
    host.close_module(panel)


def main(arguments: list[str] | None = None) -> int:
    """Make all pictures; the exit code."""
    options = parse(arguments)
    reason = SlicerHost.missing_reason()
    if reason:
        raise SystemExit(reason)
    host = SlicerHost.start()
    from SlicerHost.sliceview import missing_reason

    if missing_reason():
        raise SystemExit(missing_reason())
    options.out.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(ROOT / "DeepRegSlicer"))
    from DeepRegSlicerLib.nodes.phantom import add_phantom

    import RegCore

    options.out = options.out.absolute()
    use_theme(dark=False)
    made = add_phantom(RegCore.make_phantom(**SHAPES))
    panel = picture_panel(host, made, options)
    picture_slices(host, made, panel.widget.panel.parameters, options.out)
    picture_batch(host, panel, options.out)
    picture_error(host, panel, options.out)
    host.reset()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_data(Path("abdomen"), TRAINING["images"])
        picture_training(host, options.out, options.minutes)
        os.chdir(ROOT)
    host.reset()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
