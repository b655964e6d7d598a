"""The task and its quality: presets to choose from, to save and to load."""

import shutil

from slicer.i18n import tr as _

from .. import presets
from ..paths import typed_path
from .panel import Panel, Section, Tone, handler


class PresetSection(Section):
    """The selector of presets, which follows the parameters, and the buttons that save and load one."""

    def __init__(self, panel: Panel):
        super().__init__(panel)
        self._known: list[presets.Preset] = []
        self._showing = False
        self.load()
        self.ui.presetSelector.currentIndexChanged.connect(self.on_choice)
        self.ui.savePresetButton.clicked.connect(self.on_save)
        self.ui.loadPresetButton.clicked.connect(self.on_load)

    def load(self) -> None:
        """Read the presets again; what can't be used goes to the log."""
        self._known, complaints = presets.load_presets()
        selector, self._showing = self.ui.presetSelector, True
        selector.clear()
        for preset in self._known:
            selector.addItem(preset.title, preset.name)
        selector.addItem(_("Own settings"), "")
        self._showing = False
        for complaint in complaints:
            self.panel.log(complaint)

    def refresh(self) -> None:
        """Show the preset that the parameters are those of: the one chosen last, or the first one."""
        p = self.panel.parameters
        suitable = [preset for preset in self._known if p is not None and preset.fits(p)]
        chosen = next((preset for preset in suitable if preset.name == p.preset), None)
        shown = chosen or next(iter(suitable), None)
        self._showing = True
        self.ui.presetSelector.currentIndex = self.ui.presetSelector.findData(shown.name if shown else "")
        self._showing = False
        self.ui.presetSelector.toolTip = (
            shown.description if shown else _("The settings under Advanced are those of no preset")
        )
        self.ui.qualitySelector.enabled = p is not None and p.deforms()

    def on_choice(self) -> None:
        """A preset was chosen."""
        name = self.ui.presetSelector.itemData(self.ui.presetSelector.currentIndex)
        chosen = next((preset for preset in self._known if preset.name == name), None)
        if self._showing or self.panel.parameters is None:
            return
        if chosen is not None:
            chosen.apply(self.panel.parameters)
        self.update()

    @handler
    def on_save(self) -> None:
        """Write the settings of the panel as a preset of the user's own."""
        path = presets.path_of(typed_path(self.ui.presetEdit.text))
        saved = presets.save_preset(path, path.stem, self.panel.parameters)
        self.panel.parameters.preset = saved.name
        self._tell(_("The preset '{name}' is saved in {path}."), saved, path)

    @handler
    def on_load(self) -> None:
        """Take a preset of another place among the user's own, and use it."""
        path = presets.path_of(typed_path(self.ui.presetEdit.text))
        loaded = presets.read_preset(path)
        own = presets.own_folder() / f"{loaded.name}{presets.ENDING}"
        if not own.exists():
            own.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, own)
        loaded.apply(self.panel.parameters)
        self._tell(_("The preset '{name}' is loaded from {path}."), loaded, path)

    def _tell(self, text: str, preset: presets.Preset, path) -> None:
        self.load()
        self.update()
        self.panel.set_status(text.format(name=preset.title, path=path), Tone.good)
