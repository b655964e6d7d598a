"""Parameter sets: a scene may hold several parameter nodes of the module, of which one is chosen."""

from collections.abc import Callable

import slicer

from ..parameters import choose


class ParameterSets:
    """The selector that adds, renames, removes and chooses parameter nodes of the module."""

    def __init__(self, ui, logic, show: Callable[[], None]):
        """ui: the widgets by name. logic: of the module. show() lets the panel show the chosen one."""
        self._selector, self._logic, self._show = ui.parameterSetSelector, logic, show
        self._selector.addAttribute("vtkMRMLScriptedModuleNode", "ModuleName", logic.moduleName)
        self._selector.setMRMLScene(slicer.mrmlScene)
        self._selector.currentNodeChanged.connect(self.on_choice)

    def on_choice(self) -> None:
        """Another one was chosen, or the last one was removed: then there is a new one."""
        node = self._selector.currentNode()
        if slicer.mrmlScene.IsClosing() or slicer.mrmlScene.IsImporting():
            return
        if node is not None:
            choose(node, self._logic.getAllParameterNodes())
        self._show()
