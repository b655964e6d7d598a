"""A sequence of volumes, registered item by item: a node for each item, results as sequences again."""

import slicer
from slicer.i18n import tr as _

from RegCore.space.geometry import InputError

from .showing import show_over


class SequenceItems:
    """The items of a vtkMRMLSequenceNode as nodes of the scene, one at a time, and sequences of results."""

    def __init__(self, sequence, fixed):
        """sequence: vtkMRMLSequenceNode of volumes. Raises InputError for one of anything else."""
        first = sequence.GetNthDataNode(0) if sequence.GetNumberOfDataNodes() else None
        if first is None or not first.IsA("vtkMRMLScalarVolumeNode"):
            raise InputError(
                _("The sequence '{sequence}' holds no scalar volumes.").format(sequence=sequence.GetName())
            )
        self.sequence, self.fixed = sequence, fixed
        name = f"{sequence.GetName()} to {fixed.GetName()}"
        back = f"{fixed.GetName()} to {sequence.GetName()}"
        self._titles = {
            "transform": name,
            "warped_volume": f"{sequence.GetName()} registered",
            "inverse": back,
        }
        self._titles |= {kind: f"{name} {kind}" for kind in ("jacobian", "displacement")}
        self.results: dict[str, object] = {}
        self._node = self._browser = None

    def keep_fixed(self) -> None:
        """Have a copy as the fixed volume where it is what a browser shows of a sequence, and may change."""
        browsers = slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")
        if not any(browser.IsProxyNodeID(self.fixed.GetID()) for browser in browsers):
            return
        shown, scene = self.fixed, slicer.mrmlScene
        name = scene.GenerateUniqueName(f"{shown.GetName()} fixed")
        self.fixed = scene.AddNewNodeByClass(shown.GetClassName(), name)
        self.fixed.CopyContent(shown)
        self.fixed.SetAndObserveTransformNodeID(shown.GetTransformNodeID())
        self.fixed.CreateDefaultDisplayNodes()
        if shown.GetDisplayNode() is not None:
            self.fixed.GetDisplayNode().CopyContent(shown.GetDisplayNode())

    def __len__(self) -> int:
        return self.sequence.GetNumberOfDataNodes()

    def name(self, place: int) -> str:
        """What an item is called: the index and its value."""
        return f"{self.sequence.GetIndexName()} {self.sequence.GetNthIndexValue(place)}"

    def open(self, place: int):
        """The volume of an item as a node of the scene, until `close`."""
        stored = self.sequence.GetNthDataNode(place)
        self._node = slicer.mrmlScene.AddNewNodeByClass(stored.GetClassName(), self.name(place))
        self._node.CopyContent(stored)
        self._node.SetName(self.name(place))
        browser = self._browser_of_it()
        if browser is not None and browser.GetProxyNode(self.sequence) is not None:
            parent = browser.GetProxyNode(self.sequence).GetTransformNodeID()
            self._node.SetAndObserveTransformNodeID(parent)  # where the user sees the sequence
        self._node.SetHideFromEditors(True)
        self._node.SetSaveWithScene(False)
        return self._node

    def close(self, place: int, result=None) -> None:
        """Take the item's node out of the scene; keep its results in the sequences."""
        if result is not None:
            for key, title in self._titles.items():
                self._keep(key, title, place, getattr(result, key))
        scene = slicer.mrmlScene
        for node in (self._node, *(getattr(result, key, None) for key in self._titles)):
            if node is not None and scene.IsNodePresent(node):
                scene.RemoveNode(node)
        self._node = None

    def _keep(self, key: str, title: str, place: int, node) -> None:
        if node is None:
            return
        if key not in self.results:
            made = slicer.mrmlScene.AddNewNodeByClass(
                "vtkMRMLSequenceNode", slicer.mrmlScene.GenerateUniqueName(title)
            )
            for what in ("IndexName", "IndexUnit", "IndexType"):
                getattr(made, f"Set{what}")(getattr(self.sequence, f"Get{what}")())
            self.results[key] = made
        self.results[key].SetDataNodeAtValue(node, self.sequence.GetNthIndexValue(place))

    def _browser_of_it(self):
        """The browser that goes through the sequence, None if there is none."""
        browsers = slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")
        found = (node for node in browsers if node.IsSynchronizedSequenceNode(self.sequence, True))
        return next(found, None)

    def browse(self) -> None:
        """Let the sequence's own browser, or a new one, go through the results as well."""
        if not self.results:
            return
        browser = self._browser_of_it()
        if browser is None:
            browser = slicer.mrmlScene.AddNewNodeByClass(
                "vtkMRMLSequenceBrowserNode", self.sequence.GetName()
            )
            browser.SetAndObserveMasterSequenceNodeID(self.sequence.GetID())
        for made in self.results.values():
            browser.AddSynchronizedSequenceNode(made)
        self._browser = browser

    def show(self, place: int) -> None:
        """Let the browser show an item and its results."""
        if self._browser is None or not slicer.mrmlScene.IsNodePresent(self._browser):
            return
        self._browser.SetSelectedItemNumber(place)
        warped = self._browser.GetProxyNode(self.results.get("warped_volume"))
        if warped is not None and slicer.mrmlScene.IsNodePresent(self.fixed):
            show_over(self.fixed, warped)


def volumes_beside(fixed) -> list:
    """The scalar volumes of the scene but this one, those that a user sees."""
    found = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    return [node for node in found if node is not fixed and not node.GetHideFromEditors()]
