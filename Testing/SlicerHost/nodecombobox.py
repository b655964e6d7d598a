"""Slicer's node selector for tests: qMRMLNodeComboBox bound to a real MRML scene."""

import vtk

from . import qt
from .numberwidgets import row_layout

Signal, Property = qt.Signal, qt.Property
SCENE_CHANGED_AS_A_WHOLE = ("EndCloseEvent", "EndImportEvent", "EndRestoreEvent")


def forget(observations):
    """Remove all (object, tag) observers and empty the list."""
    while observations:
        observed, tag = observations.pop()
        observed.RemoveObserver(tag)


def _plain(kind, attribute):
    """A property that only keeps its value."""
    return Property(
        kind, lambda self: getattr(self, attribute), lambda self, value: setattr(self, attribute, value)
    )


def _menu_option(attribute):
    """A yes-or-no property that changes which items the selector offers."""

    def write(self, value):
        setattr(self, attribute, bool(value))
        self._update_extra_items()

    return Property(bool, lambda self: getattr(self, attribute), write)


def _filter_option(kind, attribute):
    """A property that changes which nodes the selector offers."""

    def write(self, value):
        setattr(self, attribute, value)
        self._rebuild()

    return Property(kind, lambda self: getattr(self, attribute), write)


@qt.stand_in
class qMRMLNodeComboBox(qt.QWidget):
    """A selector of scene nodes. Its items: "None" if enabled, the nodes, then what can be done with them.

    As in Slicer, what happens to the choice when nodes come and go is left to QComboBox: without "None" and
    without menu entries the first node is chosen by itself; a removed one gives way to another.
    """

    currentNodeChanged = Signal(object)
    currentNodeIDChanged = Signal(str)
    currentNodeRenamed = Signal(str)
    nodeActivated = Signal(object)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)
    nodeAboutToBeEdited = Signal(object)
    nodeAboutToBeRemoved = Signal(object)
    _anyNodeChosen = Signal(bool)
    signatures = {
        "currentNodeChanged(vtkMRMLNode*)": "currentNodeChanged",
        "currentNodeChanged(bool)": "_anyNodeChosen",
        "nodeActivated(vtkMRMLNode*)": "nodeActivated",
        "nodeAdded(vtkMRMLNode*)": "nodeAdded",
        "nodeAddedByUser(vtkMRMLNode*)": "nodeAddedByUser",
        "nodeAboutToBeEdited(vtkMRMLNode*)": "nodeAboutToBeEdited",
        "nodeAboutToBeRemoved(vtkMRMLNode*)": "nodeAboutToBeRemoved",
    }

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene, self._observations = None, []
        observations = self._observations  # the widget itself can't be asked any more when it is destroyed
        self.destroyed.connect(lambda: forget(observations))
        self._none, self._add, self._remove, self._edit, self._rename = False, True, True, False, False
        self._hidden, self._children_too, self._select_new = False, True, True
        self._types, self._excluded, self._attributes = [], [], {}
        self._base_names, self._labels, self._none_display = {}, {}, "None"
        self._interaction_tag = ""
        self._ids, self._requested_id, self._announced_id, self._busy = [], "", "", False
        self._combo = qt.QComboBox()
        row_layout(self, self._combo)
        self._combo.currentIndexChanged.connect(self._announce)
        self._combo.activated.connect(self._activate)
        self.setEnabled(False)

    # What the selector offers

    noneEnabled = _menu_option("_none")
    addEnabled = _menu_option("_add")
    removeEnabled = _menu_option("_remove")
    editEnabled = _menu_option("_edit")
    renameEnabled = _menu_option("_rename")
    showHidden = _filter_option(bool, "_hidden")
    showChildNodeTypes = _filter_option(bool, "_children_too")
    hideChildNodeTypes = _filter_option("QStringList", "_excluded")
    nodeTypes = _filter_option("QStringList", "_types")
    selectNodeUponCreation = _plain(bool, "_select_new")
    noneDisplay = _filter_option(str, "_none_display")
    interactionNodeSingletonTag = _plain(str, "_interaction_tag")
    sizeAdjustPolicy = property(
        lambda self: self._combo.sizeAdjustPolicy,
        lambda self, policy: self._combo.setSizeAdjustPolicy(policy),
    )
    currentNodeID = Property(
        str,
        lambda self: self._id_at(self._combo.currentIndex),
        lambda self, value: self.setCurrentNodeID(value),
    )
    baseName = Property(
        str,
        lambda self: self._base_names.get(self._types[0], "") if self._types else "",
        lambda self, value: self.setBaseName(value),
    )

    def setBaseName(self, name, node_type=""):
        """How new nodes are called, for one type or for all."""
        for kind in [node_type] if node_type else self._types:
            self._base_names[kind] = name

    def setNodeTypeLabel(self, label, node_type):
        """How nodes of that class are called in the menu entries."""
        self._labels[node_type] = label
        self._update_extra_items()

    def nodeTypeLabel(self, node_type):
        """What the menu entries call nodes of that class."""
        known = self._scene.GetTypeDisplayNameByClassName(node_type) if self._scene and node_type else ""
        return self._labels.get(node_type) or known or "node"

    def addAttribute(self, node_type, name, value=None):
        """Offer nodes of that class only if they have the attribute (with that value); new nodes get it."""
        self._attributes.setdefault(node_type, {})[name] = value
        self._rebuild()

    def removeAttribute(self, node_type, name):
        """Undo `addAttribute`."""
        self._attributes.get(node_type, {}).pop(name, None)
        self._rebuild()

    def _accepts(self, node):
        if node.GetHideFromEditors() and not self._hidden:
            return False
        if any(node.IsA(kind) for kind in self._excluded):
            return False
        for kind in self._types:
            if node.IsA(kind) if self._children_too else node.GetClassName() == kind:
                wanted = self._attributes.get(kind, {})
                return all(
                    node.GetAttribute(name) == value
                    if value is not None
                    else node.GetAttribute(name) is not None
                    for name, value in wanted.items()
                )
        return False

    # The scene

    def setMRMLScene(self, scene):
        """Offer the nodes of this scene, or none at all."""
        if scene is self._scene:
            return
        forget(self._observations)
        self._scene = scene
        if scene is not None:
            self._observe_nodes(scene.NodeAddedEvent, self._on_added)
            self._observe_nodes(scene.NodeAboutToBeRemovedEvent, self._on_removed)
            for event in SCENE_CHANGED_AS_A_WHOLE:
                self._observe(scene, getattr(scene, event), lambda caller, event: self._rebuild())
        self._rebuild()
        self.setEnabled(scene is not None)
        requested, self._requested_id = self._requested_id, ""
        if requested:
            self.setCurrentNodeID(requested)
        elif not self._none and self._ids and self._combo.currentIndex < 0:
            self._combo.setCurrentIndex(0)

    def mrmlScene(self):
        """The scene in use."""
        return self._scene

    def _observe(self, observed, event, call):
        self._observations.append((observed, observed.AddObserver(event, call)))

    def _observe_nodes(self, event, method):
        """Call `method(node)` at an event of the scene that concerns one node."""

        @vtk.calldata_type(vtk.VTK_OBJECT)
        def call(caller, event, node):
            method(node)

        self._observe(self._scene, event, call)

    def _on_added(self, node):
        self._observe(node, vtk.vtkCommand.ModifiedEvent, lambda caller, event: self._on_modified(caller))
        if self._accepts(node):
            self._insert(node)
            self.nodeAdded.emit(node)

    def _on_removed(self, node):
        for entry in [entry for entry in self._observations if entry[0] is node]:
            node.RemoveObserver(entry[1])
            self._observations.remove(entry)
        if node.GetID() in self._ids:
            self.nodeAboutToBeRemoved.emit(node)
            self._take_out(node.GetID())

    def _on_modified(self, node):
        """A node that was renamed, hidden or given an attribute."""
        if node.GetID() in self._ids:
            if self._accepts(node):
                self._combo.setItemText(self._first_row() + self._ids.index(node.GetID()), node.GetName())
            else:
                self._take_out(node.GetID())
        elif node.GetScene() is not None and self._accepts(node):
            self._insert(node)

    # The items

    def _first_row(self):
        return 1 if self._none else 0

    def _id_at(self, row):
        index = row - self._first_row()
        return self._ids[index] if 0 <= index < len(self._ids) else ""

    def _insert(self, node):
        row = self._first_row() + len(self._ids)
        self._ids.append(node.GetID())
        self._combo.insertItem(row, node.GetName() or "")

    def _take_out(self, node_id):
        index = self._ids.index(node_id)
        del self._ids[index]
        self._combo.removeItem(self._first_row() + index)
        if not self.currentNodeID:
            on_menu_entry = self._combo.currentData is not None
            self._choose(self._ids[-1] if self._ids and on_menu_entry else "")

    def _rebuild(self):
        """Look at the whole scene again; the chosen node stays chosen if it is still offered."""
        chosen = self.currentNodeID
        self._busy = True
        self._ids = []
        self._combo.clear()
        if self._none:
            self._combo.addItem(self._none_display)
        nodes = (
            [self._scene.GetNthNode(n) for n in range(self._scene.GetNumberOfNodes())] if self._scene else []
        )
        watched = {observed for observed, tag in self._observations}
        for node in nodes:
            if node not in watched:
                self._observe(
                    node, vtk.vtkCommand.ModifiedEvent, lambda caller, event: self._on_modified(caller)
                )
            if self._accepts(node):
                self._insert(node)
        for text, action in self._actions():
            self._combo.addItem(text, action)
        self._busy = False
        self._choose(chosen)

    _update_extra_items = _rebuild

    def _actions(self):
        """(text, what to do) of the menu entries under the nodes."""
        if self._scene is None:
            return []
        label = self.nodeTypeLabel(self._types[0] if len(self._types) == 1 else "")
        entries = []
        if self._rename:
            entries.append((f"Rename current {label}", ("rename", "")))
        if self._edit:
            entries.append((f"Edit current {label}", ("edit", "")))
        for kind in self._types if self._add else []:
            entries.append((f"Create new {self.nodeTypeLabel(kind)}", ("create", kind)))
            if self._rename:
                entries.append((f"Create new {self.nodeTypeLabel(kind)} as...", ("create as", kind)))
        if self._remove:
            entries.append((f"Delete current {label}", ("delete", "")))
        return entries

    def _activate(self, row):
        """The user chose an item with the mouse or the keyboard."""
        action = self._combo.itemData(row)
        if action is None:
            self.nodeActivated.emit(self.currentNode())
            return
        verb, kind = action
        self._choose(self._announced_id)
        if verb == "create":
            self.setCurrentNode(self.addNode(kind))
        elif verb == "create as":
            self._create_as(kind)
        else:
            {
                "rename": self.renameCurrentNode,
                "edit": self.editCurrentNode,
                "delete": self.removeCurrentNode,
            }[verb]()

    def _announce(self, row):
        if self._busy or self._combo.itemData(row) is not None:
            return
        node = self.currentNode()
        self._announced_id = self.currentNodeID
        self.currentNodeChanged.emit(node)
        self._anyNodeChosen.emit(node is not None)
        self.currentNodeIDChanged.emit(self._announced_id)

    def _choose(self, node_id):
        """Make the node the current one, or none; tell of it only if that is a change."""
        self._busy = True
        if node_id in self._ids:
            row = self._first_row() + self._ids.index(node_id)
        else:
            row = 0 if self._none else -1
        self._combo.setCurrentIndex(row)
        self._busy = False
        if self.currentNodeID != self._announced_id:
            self._announce(row)

    # The nodes

    def currentNode(self):
        """The chosen node or None."""
        return self._scene.GetNodeByID(self.currentNodeID) if self._scene and self.currentNodeID else None

    def setCurrentNode(self, node):
        """Choose a node of the scene; one that is not offered counts as none."""
        self.setCurrentNodeID(node.GetID() if node is not None else "")

    def setCurrentNodeID(self, node_id):
        """Choose by ID; before a scene is set the wish is kept until then."""
        if self._scene is None:
            self._requested_id = node_id
        else:
            self._choose(node_id)

    def setCurrentNodeIndex(self, index):
        """Choose the n-th of the offered nodes."""
        self._choose(self._ids[index] if 0 <= index < len(self._ids) else "")

    def nodeCount(self):
        """How many nodes are offered."""
        return len(self._ids)

    def nodeFromIndex(self, index):
        """The n-th of the offered nodes or None."""
        return self._scene.GetNodeByID(self._ids[index]) if 0 <= index < len(self._ids) else None

    def addNode(self, node_type=None):
        """A new node of that class, by default the first of `nodeTypes`; None for a class not among them."""
        kind = node_type or (self._types[0] if self._types else None)
        if kind not in self._types:
            return None
        node = self._scene.CreateNodeByClass(kind)
        node.UnRegister(None)  # the scene, not this reference, owns it from here on
        base = self._base_names.get(kind) or self.nodeTypeLabel(kind)
        node.SetName(self._scene.GenerateUniqueName(base))
        for name, value in self._attributes.get(kind, {}).items():
            node.SetAttribute(name, value or "")
        node = self._scene.AddNode(node)
        if self._select_new:
            self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    def removeCurrentNode(self):
        """Delete the chosen node from the scene."""
        if self.currentNode() is not None:
            self._scene.RemoveNode(self.currentNode())

    def editCurrentNode(self):
        """Announce that the user wants to edit the chosen node; Slicer then shows the module for it."""
        self.nodeAboutToBeEdited.emit(self.currentNode())

    def renameCurrentNode(self):
        """Ask for a new name of the chosen node."""
        node = self.currentNode()
        name = self._ask_name("Rename", node.GetName()) if node is not None else ""
        if name:
            node.SetName(name)
            self.currentNodeRenamed.emit(name)

    def _create_as(self, kind):
        name = self._ask_name("Create", "")
        if name:
            node = self.addNode(kind)
            node.SetName(name)
            self.setCurrentNode(node)

    def _ask_name(self, title, start):
        name, accepted = qt.QInputDialog.getText(self, title, "New name:", qt.QLineEdit.Normal, start)
        return name if accepted else ""
