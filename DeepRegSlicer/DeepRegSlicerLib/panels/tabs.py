"""The panels, one in each tab of DeepRegSlicer.ui."""

import slicer

from ..paths import resource
from .batch import BatchPanel
from .models import ModelsPanel
from .register import RegisterPanel
from .train import TrainPanel


class Tabs:
    """All panels: `register`, `train`, `models`, `batch`."""

    def __init__(self, ui):
        """ui: the widgets of DeepRegSlicer.ui by name. Nothing is installed and nothing heavy imported."""
        self.ui = ui
        self.register = RegisterPanel(ui)
        self.train = TrainPanel(self._filled("Train"), self.register)
        self.models = ModelsPanel(self._filled("Models"), self.register, self.train)
        self.batch = BatchPanel(self._filled("Batch"), self.register)
        ui.tabs.currentChanged.connect(self.refresh)

    def _filled(self, name: str):
        """Fill the tab of that name from its file; its widgets by name."""
        form = slicer.util.loadUI(str(resource(f"UI/{name}.ui")))
        getattr(self.ui, f"{name.lower()}Tab").layout().addWidget(form)
        return slicer.util.childWidgetVariables(form)

    def refresh(self) -> None:
        """Another tab is seen, or the user comes back: show the models and volumes that there are now."""
        self.train.update()
        self.models.refresh()
        self.batch.refresh()

    def close(self) -> None:
        """The widgets are about to be destroyed."""
        panels = (self.register, self.train, self.models, self.batch)
        if any(panel.run is not None for panel in panels):
            slicer.util.showStatusMessage("")  # it says how far something is
        for panel in panels:
            panel.close()
