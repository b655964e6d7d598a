"""Presets and parameter sets: chosen, changed, saved and shared through the widgets."""

import shutil

import pytest

from Testing.paths import ROOT
from Testing.Slicer.test_panel import MODULE, Panel
from Testing.Slicer.test_user_steps import save


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder of its own, where a user's presets are kept."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    return tmp_path


@pytest.fixture
def panel(host, library, monkeypatch, stand_in, home):
    return Panel(host, library, monkeypatch)


def choose(panel, title: str) -> None:
    panel.ui.presetSelector.currentIndex = panel.ui.presetSelector.findText(title)


def offered(panel) -> list[str]:
    selector = panel.ui.presetSelector
    return [selector.itemText(place) for place in range(selector.count)]


def test_every_task_sets_its_method_and_quality_stays(panel, library):
    p, ui = panel.parameters, panel.ui
    Quality = library("parameters").Quality
    assert ui.presetSelector.currentText == "Same modality" and ui.advancedSection.collapsed
    p.quality = Quality.best
    asked = {}
    for title in offered(panel)[:-1]:
        choose(panel, title)
        assert ui.presetSelector.currentText == title and p.quality is Quality.best
        asked[title] = p.method.value, p.settings()
    best = {"quality": "best"}
    assert asked == {
        "Same modality": ("auto", best),
        "Different modalities": ("deformable", {"iterations": 80, "contrast": 0.0}),
        "Large motion": ("auto", {**best, "smoothness": 0.6}),
        "Segmentations lead": ("auto", {**best, "label_weight": 60.0}),
        "Rigid": ("rigid", None),
        "Affine": ("affine", None),
        "Trained model": ("trained", None),
    }
    assert not ui.qualitySelector.enabled and not ui.modelPath.isHidden()


def test_the_settings_of_every_preset_are_known_to_its_method(panel, library):
    from RegCore.registration.methods import AUTO, DEFORMABLE

    known = {"auto": AUTO, "deformable": DEFORMABLE, "rigid": {}, "affine": {}, "trained": {"refine": bool}}
    for title in offered(panel)[:-1]:
        choose(panel, title)
        for quality in library("parameters").Quality:
            panel.parameters.quality = quality
            method = panel.parameters.method.value
            assert set(panel.parameters.settings() or {}) <= set(known[method]), (title, quality)


def test_a_change_under_advanced_makes_settings_of_ones_own(panel):
    choose(panel, "Large motion")
    panel.ui.smoothnessSlider.value = 2.0
    assert panel.ui.presetSelector.currentText == "Own settings"
    panel.ui.smoothnessSlider.value = 0.6
    assert panel.ui.presetSelector.currentText == "Large motion"


def test_further_settings_reach_the_worker_and_wrong_ones_are_said(panel, library, monkeypatch):
    told = []
    process = library("process")
    real = process.Worker.request

    def request(self, command, arguments, *more):
        told.append(arguments["settings"])
        return real(self, command, arguments, *more)

    monkeypatch.setattr(process.Worker, "request", request)
    ui = panel.choose().ui
    ui.moreEdit.text = "label_weight=40 steps=2"
    panel.register()
    assert told == [{"label_weight": 40, "steps": 2}]
    ui.moreEdit.text = "label_weight 40"
    text = "Further settings: KEY=VALUE was expected, not 'label_weight'"
    assert ui.statusLabel.text == text and not ui.registerButton.enabled


def test_a_preset_is_saved_offered_shared_and_loaded(panel, home, host):
    ui, p = panel.ui, panel.parameters
    choose(panel, "Large motion")
    ui.qualitySelector.currentIndex = ui.qualitySelector.findText("Best")
    ui.moreEdit.text = "label_weight=5"
    ui.presetEdit.text = "My liver"
    ui.savePresetButton.click()
    file = home / "DeepRegSlicer" / "presets" / "My liver.yaml"
    assert ui.statusLabel.text == f"The preset 'My liver' is saved in {file}."
    assert ui.presetSelector.currentText == "My liver"
    shared = home / "from a colleague.yaml"
    shutil.move(file, shared)
    host.close_all()
    module = host.load_module(MODULE)
    assert "My liver" not in [module.ui.presetSelector.itemText(n) for n in range(8)]
    module.ui.presetEdit.text = str(shared)
    module.ui.loadPresetButton.click()
    p = module.widget.panel.parameters
    assert module.ui.presetSelector.currentText == "My liver" and p.quality.value == "best"
    assert p.settings() == {"quality": "best", "smoothness": 0.6, "label_weight": 5}
    assert (home / "DeepRegSlicer" / "presets" / "from a colleague.yaml").is_file()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("title: a\nmethod: rigidd", "line 2: method is 'rigidd', expected one of auto, rigid, affine"),
        ("title: a\nmethod: rigid\nsmoothnes: 1", "line 3: a key is 'smoothnes', expected one of title,"),
        ("title: a\nmethod: auto\nsmoothness: 50", "line 3: smoothness is 50, expected 0.1 to 10"),
        ("title: a\nmethod: auto\nrefine: maybe", "line 3: refine is 'maybe', expected true or false"),
        (
            "title: a\nmethod: auto\nsettings: 3",
            "settings is 3, expected settings of the method by their names",
        ),
        ("method: auto", "a preset needs the keys title and method"),
        ("title: !!python/object/apply:os.getcwd []", "this is not valid YAML"),
    ],
)
def test_a_preset_that_can_not_be_used_says_why(panel, home, text, sentence):
    file = home / "odd.yaml"
    file.write_text(text)
    before = panel.parameters.settings(), panel.parameters.method
    panel.ui.presetEdit.text = str(file)
    panel.ui.loadPresetButton.click()
    assert panel.ui.statusLabel.text.startswith(str(file)) and sentence in panel.ui.statusLabel.text
    assert (panel.parameters.settings(), panel.parameters.method) == before
    assert not (home / "DeepRegSlicer").exists()


def test_without_pyyaml_the_panel_opens_and_the_tasks_come_with_it(
    host, library, monkeypatch, home, stand_in
):
    import sys

    with monkeypatch.context() as absent:
        absent.setitem(sys.modules, "yaml", None)  # what an import then raises is ModuleNotFoundError
        absent.delitem(sys.modules, "RegCore.io.yaml", raising=False)
        module = host.load_module(MODULE)
        selector = module.ui.presetSelector
        assert [selector.itemText(n) for n in range(selector.count)] == ["Own settings"]
    module.widget.panel.presets.load()
    module.widget.panel.update()
    assert selector.count == 8 and selector.currentText == "Same modality"


def test_without_a_name_nothing_is_saved(panel, home):
    panel.ui.savePresetButton.click()
    assert panel.ui.statusLabel.text == "Type a name for the preset, or choose a file for it."
    assert list(home.iterdir()) == []


def test_the_shipped_presets_are_installed_all():
    lines = (ROOT / "Resources" / "CMakeLists.txt").read_text(encoding="utf-8").split()
    files = {f"Presets/{path.name}" for path in (ROOT / "Resources" / "Presets").iterdir()}
    assert files == {line for line in lines if line.startswith("Presets/")}


def test_a_scene_holds_several_parameter_sets_and_keeps_them(panel, host, tmp_path):
    import slicer

    ui, first = panel.choose().ui, panel.parameters
    choose(panel, "Rigid")
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "Second")
    node.SetAttribute("ModuleName", "DeepRegSlicer")
    ui.parameterSetSelector.setCurrentNode(node)
    second = panel.parameters
    assert second is not first and ui.fixedVolumeSelector.currentNode() is None
    ui.fixedVolumeSelector.setCurrentNode(panel.moving)
    choose(panel, "Affine")
    ui.parameterSetSelector.setCurrentNode(first.parameterNode)
    assert ui.fixedVolumeSelector.currentNode() is panel.fixed and ui.presetSelector.currentText == "Rigid"
    ui.parameterSetSelector.setCurrentNode(node)
    url = save(tmp_path)
    host.close_scene()
    assert ui.presetSelector.currentText == "Same modality"
    slicer.mrmlScene.SetURL(url)
    assert slicer.mrmlScene.Import()
    assert ui.parameterSetSelector.currentNode().GetName() == "Second"
    assert ui.fixedVolumeSelector.currentNode().GetName() == "M"
    assert ui.presetSelector.currentText == "Affine"
    slicer.mrmlScene.RemoveNode(ui.parameterSetSelector.currentNode())
    assert ui.fixedVolumeSelector.currentNode().GetName() == "F" and ui.presetSelector.currentText == "Rigid"


def another_set(panel):
    """A further parameter set, which is chosen now."""
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "Second")
    node.SetAttribute("ModuleName", "DeepRegSlicer")
    panel.ui.parameterSetSelector.setCurrentNode(node)
    return node


def test_a_run_belongs_to_the_parameter_set_that_it_began_with(panel):
    first = panel.choose().parameters
    another_set(panel)
    second = panel.choose().parameters  # the same pair here as well
    panel.settings = {"steps": 40, "seconds": 0.02}
    panel.ui.registerButton.click()
    panel.ui.parameterSetSelector.setCurrentNode(first.parameterNode)
    assert panel.finish().startswith("Done in ")
    assert second.outputTransform.GetName() == "M to F" and first.outputTransform is None
    assert panel.ui.outputTransformSelector.currentNode() is None


def test_a_parameter_set_that_is_removed_during_its_run_is_not_missed(panel, host):
    import slicer

    first = panel.choose().parameters.parameterNode
    node = another_set(panel)
    panel.choose()
    panel.settings = {"steps": 40, "seconds": 0.02}
    panel.ui.registerButton.click()
    slicer.mrmlScene.RemoveNode(node)
    assert panel.finish().startswith("Done in ") and panel.parameters.parameterNode is first
    assert panel.ui.outputTransformSelector.currentNode() is None
