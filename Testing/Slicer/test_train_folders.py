"""The Train panel: folders however they are typed, folders that can't be used, and the room that it takes."""

import pytest

from Testing.Slicer.test_train_panel import STAND_IN, Train


@pytest.fixture
def train(host, library, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(library("process"), "worker_command", lambda: STAND_IN)
    return Train(host, tmp_path / "results")


@pytest.mark.parametrize("form", ["~/pairs", "  {path} ", "file://{path}", '"{path}"'])
@pytest.mark.parametrize("file_format", ["nifti", "h5"])
def test_a_folder_is_found_however_it_is_typed(train, tmp_path, form, file_format):
    from Testing.RegCore.loaders import data

    home = tmp_path / "home" / "pairs"
    data.write(home, "paired", file_format, channels=2)
    ui = train.ui
    ui.trainPath.currentPath = form.format(path=home)
    assert ui.foundLabel.text.startswith("Found: ") and ui.trainButton.enabled
    split = train.panel.form.preset().configuration()["dataset"]["train"]
    assert split == {"dir": str(home), "format": file_format, "labeled": True}


def test_a_folder_without_data_can_not_be_trained_on(train, pairs, tmp_path):
    ui = train.ui
    for line in (ui.trainPath, ui.validPath):
        ui.trainPath.currentPath = str(pairs)
        line.currentPath = str(tmp_path)
        assert not ui.trainButton.enabled and "fixed_images and moving_images" in ui.trainButton.toolTip
        assert train.status == ui.trainButton.toolTip
        line.currentPath = ""
    ui.trainPath.currentPath = str(pairs)
    assert ui.trainButton.enabled and train.status == "Ready"


def test_a_folder_that_must_not_be_written_to_leaves_the_panel_usable(train, pairs, library, monkeypatch):
    def fail(*given, **named):
        raise PermissionError("read-only")

    monkeypatch.setattr(library("panels.train"), "train", fail)
    ui = train.fill(pairs).ui
    ui.trainButton.click()
    assert train.status.startswith("This failed unexpectedly (PermissionError: read-only)")
    assert ui.trainButton.enabled and not ui.stopButton.enabled and not ui.trainProgressBar.visible


SECTIONS = "inputs outputs moreOutputs advanced result apply log"


@pytest.fixture(params=["Windows", "Fusion"])
def style(host, request):
    """The style of widgets, until the test is over."""
    import qt

    application = qt.QApplication.instance()
    before = application.style().objectName
    application.setStyle(request.param)
    yield request.param
    application.setStyle(before)


@pytest.mark.parametrize("tab", [0, 1, 2, 3])
def test_the_panels_fit_into_a_narrow_column(train, tab, style):
    import slicer

    ui, parameters = train.module.ui, train.module.widget.panel.parameters
    name = "A volume with a long name, as scanners and those who archive their images give them"
    parameters.fixedVolume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    parameters.warpedVolume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"{name} warped")
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", f"{name}, its liver")
    parameters.method = type(parameters.method).trained
    parameters.modelFile = f"/somewhere/{'far/' * 30}away/liver.pt"
    train.tabs.currentIndex = tab
    train.ui.settingsSelector.currentIndex = 0
    ui.resultSection.visible = True
    for section in SECTIONS.split():
        getattr(ui, f"{section}Section").collapsed = False
    for section in ("dataSection", "networkSection", "moreSection", "runSection"):
        getattr(train.ui, section).collapsed = False
    train.module.panel.show()
    train.host.spin(0.05)
    assert train.module.panel.layout().minimumSize().width() <= 400
