"""The Slicer module DeepRegSlicer: registration of two volumes of the scene, training of networks for it."""

import slicer
import vtk
from DeepRegSlicerLib import paths, samples
from DeepRegSlicerLib.process import stop_shared_worker
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin


class DeepRegSlicer(ScriptedLoadableModule):
    """What Slicer's list of modules shows."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = "DeepRegSlicer"
        parent.categories = [translate("qSlicerAbstractCoreModule", "Registration")]
        parent.dependencies = []
        parent.contributors = ["DeepRegSlicer contributors"]
        parent.helpText = _(
            "Brings a moving volume onto a fixed one: rigid, affine or deformable, of the same or of another "
            "modality. Segmentations, masks and landmarks are welcome. Networks are trained on data of your "
            "own, with a live chart, and then register. Processes of their own do the work."
        )
        parent.acknowledgementText = _(
            "Built on PyTorch. Methods follow DeepReg and the papers named in RegCore."
        )
        slicer.app.connect("startupCompleted()", samples.register_sample_data)


class DeepRegSlicerWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panels' connection to Slicer: scene, parameter node, beginning and end.

    See `RegisterPanel` and `TrainPanel`, a tab each.
    """

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = self.panel = self.trainPanel = self.tabs = self.sets = self.ui = None
        self._parameters = self._guiTag = None

    def setup(self):
        """Build the panels. Nothing is installed and nothing heavy imported."""
        from DeepRegSlicerLib.panels.sets import ParameterSets
        from DeepRegSlicerLib.panels.tabs import Tabs

        ScriptedLoadableModuleWidget.setup(self)
        widget = slicer.util.loadUI(str(paths.resource("UI/DeepRegSlicer.ui")))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.logic = DeepRegSlicerLogic()
        self.tabs = Tabs(self.ui)
        self.panel, self.trainPanel = self.tabs.register, self.tabs.train
        self.sets = ParameterSets(self.ui, self.logic, self.showParameters)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        for event in (scene.EndCloseEvent, scene.EndImportEvent, scene.EndRestoreEvent):
            self.addObserver(scene, event, self.onSceneReplaced)
        self.showParameters()

    def cleanup(self):
        """The panels are about to be destroyed."""
        self.tabs.close()
        self.setParameters(None)
        self.removeObservers()
        stop_shared_worker()

    def enter(self):
        """The user comes to this module."""
        self.panel.look_for_packages()
        self.showParameters()
        self.tabs.refresh()

    def exit(self):
        """The user goes to another module; what runs goes on."""

    def showParameters(self):
        """Bind the widgets to the chosen parameter set."""
        self.setParameters(self.logic.getParameterNode())

    def onSceneStartClose(self, caller, event):
        """The parameter node is about to be reset, the results to go."""
        self.panel.forget()
        self.setParameters(None)

    def onSceneReplaced(self, caller, event):
        """The scene was closed, loaded or restored: show its parameters, if the panel is seen."""
        if self.parent.isEntered:
            self.showParameters()

    def setParameters(self, parameters):
        """Bind the widgets to a parameter node, or to none."""
        from DeepRegSlicerLib.parameters import refresh

        self.panel.set_parameters(None)  # what changes meanwhile is not the user's doing
        if self._parameters is not None and parameters is not self._parameters:
            self._parameters.disconnectGui(self._guiTag)
            self.removeObserver(self._parameters, vtk.vtkCommand.ModifiedEvent, self.onParametersChanged)
            self._parameters = None
        if parameters is not None:
            if self._parameters is None:
                self._parameters = parameters
                self._guiTag = parameters.connectGui(self.ui)
                self.addObserver(parameters, vtk.vtkCommand.ModifiedEvent, self.onParametersChanged)
            refresh(parameters)
            self.ui.parameterSetSelector.setCurrentNode(parameters.parameterNode)
        self.panel.set_parameters(parameters)

    def onParametersChanged(self, caller=None, event=None):
        """Something was chosen; while a scene is loaded it is the program that does."""
        if not slicer.mrmlScene.IsImporting():
            self.panel.update()


class DeepRegSlicerLogic(ScriptedLoadableModuleLogic):
    """Gives the parameter node; registering is `DeepRegSlicerLib.logic.register_volumes`."""

    def getParameterNode(self):
        """The module's parameters in the scene: of its parameter sets the one that was chosen last."""
        from DeepRegSlicerLib.parameters import chosen, parameters_of

        node = chosen(self.getAllParameterNodes()) or ScriptedLoadableModuleLogic.getParameterNode(self)
        return parameters_of(node)


class DeepRegSlicerTest(ScriptedLoadableModuleTest):
    """The self test, started by "Reload and Test" in Slicer: a small synthetic patient is registered."""

    def runTest(self):
        """See `DeepRegSlicerLib.selftest`."""
        from DeepRegSlicerLib.selftest import run

        run(self)
