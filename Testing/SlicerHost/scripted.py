"""`slicer.ScriptedLoadableModule` and `slicer.i18n` for tests: the base classes of a scripted module."""

import os
import sys
import unittest

import slicer

from . import qt

__all__ = [
    "ScriptedLoadableModule",
    "ScriptedLoadableModuleLogic",
    "ScriptedLoadableModuleTest",
    "ScriptedLoadableModuleWidget",
]

NODE_CLASS = "vtkMRMLScriptedModuleNode"


def tr(text):
    """`slicer.i18n.tr`: the text itself, as in an English Slicer."""
    return text


def translate(context, text):
    """`slicer.i18n.translate`."""
    return text


class ScriptedLoadableModule:
    """The module: what Slicer's module list shows, and its self test."""

    def __init__(self, parent):
        self.parent = parent
        self.moduleName = type(self).__name__
        parent.title, parent.helpText, parent.acknowledgementText = "", "", ""
        parent.categories, parent.dependencies, parent.contributors = [], [], []
        for extension in (".svg", ".png"):
            icon = self.resourcePath("Icons/" + self.moduleName + extension)
            if os.path.isfile(icon):
                parent.icon = qt.QIcon(icon)
                break
        slicer.selfTests[self.moduleName] = self.runTest

    def resourcePath(self, filename):
        """Where a file of the module's `Resources` folder is."""
        return os.path.join(os.path.dirname(self.parent.path), "Resources", filename)

    def getDefaultModuleDocumentationLink(self, docPage=None):
        """A sentence with a link to the module's pages."""
        page = (
            slicer.app.documentationBaseUrl + docPage
            if docPage
            else slicer.app.moduleDocumentationUrl(self.moduleName)
        )
        return f'<p>Documentation: <a href="{page}">{page}</a></p>'

    def runTest(self, msec=100):
        """Run `<ModuleName>Test` of the module's file."""
        test = getattr(sys.modules[self.__module__], self.moduleName + "Test")()
        test.messageDelay = msec
        test.runTest()


class ScriptedLoadableModuleWidget:
    """The module's panel."""

    def __init__(self, parent=None):
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = False
        self.parent = parent if parent else slicer.qMRMLWidget()
        if not parent:
            self.parent.setLayout(qt.QVBoxLayout())
            self.parent.setMRMLScene(slicer.mrmlScene)
        self.layout = self.parent.layout()
        slicer.app.moduleManager().connect(
            "moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded
        )
        if not parent:
            self.setup()
            self.parent.show()

    def resourcePath(self, filename):
        """Where a file of the module's `Resources` folder is."""
        return os.path.join(os.path.dirname(slicer.util.modulePath(self.moduleName)), "Resources", filename)

    def setup(self):
        """Overridden: build the panel."""

    def cleanup(self):
        """Overridden: let go of observers before the panel is destroyed."""

    def _onModuleAboutToBeUnloaded(self, name):
        if name == self.moduleName:
            self.cleanup()
            slicer.app.moduleManager().disconnect(
                "moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded
            )


class ScriptedLoadableModuleLogic:
    """What the module does without a panel; owns the parameter node."""

    def __init__(self, parent=None):
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self):
        """The module's parameter node, made if the scene has none."""
        if self.isSingletonParameterNode:
            node = slicer.mrmlScene.GetSingletonNode(self.moduleName, NODE_CLASS)
            if node is not None:
                # Closing the scene resets singleton nodes, their attributes included.
                node.SetAttribute("ModuleName", self.moduleName)
                return node
        nodes = self.getAllParameterNodes()
        return nodes[0] if nodes else slicer.mrmlScene.AddNode(self.createParameterNode())

    def getAllParameterNodes(self):
        """Every parameter node of this module, for modules that keep several."""
        nodes = slicer.util.getNodesByClass(NODE_CLASS)
        return [node for node in nodes if node.GetAttribute("ModuleName") == self.moduleName]

    def createParameterNode(self):
        """A new parameter node, not yet in the scene."""
        node = slicer.mrmlScene.CreateNodeByClass(NODE_CLASS)
        node.UnRegister(None)  # this reference owns it now
        if self.isSingletonParameterNode:
            node.SetSingletonTag(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """The module's self test, started from Slicer's "Reload and Test" button."""

    def __init__(self, methodName="runTest"):
        super().__init__(methodName)
        self.messageDelay = 0
        self.enableScreenshots = False

    def delayDisplay(self, message, requestedDelay=None, msec=None):
        """Shows a message for a moment in Slicer; here it lets the event loop catch up."""
        slicer.app.processEvents()

    def takeScreenshot(self, name, description, type=-1):
        """Takes a picture of a view in Slicer; here it lets the event loop catch up."""
        self.delayDisplay(description)

    def runTest(self):
        """Run every `test…` method."""
        for name in (name for name in dir(self) if name.startswith("test_")):
            self.setUp()
            getattr(self, name)()
            self.tearDown()
