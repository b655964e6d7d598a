"""The node selector: what it offers, what it chooses by itself, and what it tells when nodes come and go."""

import pytest

VOLUME, SEGMENTATION = "vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode"


@pytest.fixture
def make(host):
    """make(nodeTypes, properties): a selector on the host's scene, set up in the order of a `.ui` file."""

    def build(*types, none=False, add=False, remove=False, rename=False):
        selector = host.slicer.qMRMLNodeComboBox()
        selector.nodeTypes = list(types) or [VOLUME]
        selector.noneEnabled, selector.addEnabled = none, add
        selector.removeEnabled, selector.renameEnabled = remove, rename
        selector.setMRMLScene(host.scene)
        selectors.append(selector)
        return selector

    selectors = []
    yield build
    for selector in selectors:
        selector.deleteLater()


@pytest.fixture
def add(host):
    """add(name, class): a new node in the scene."""
    return lambda name, kind=VOLUME: host.scene.AddNewNodeByClass(kind, name)


def told(selector):
    """The list of names that the selector announces from here on, None for no node."""
    names = []
    selector.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: names.append(node and node.GetName()))
    return names


def items(selector):
    combo = selector.findChildren("QComboBox")[0]
    return [combo.itemText(row) for row in range(combo.count)]


def activate(selector, text):
    """Choose an item as a user does."""
    combo = selector.findChildren("QComboBox")[0]
    combo.setCurrentIndex(combo.findText(text))
    combo.activated.emit(combo.findText(text))


def test_offers_nodes_of_its_classes_only(make, add):
    add("CT")
    add("organs", SEGMENTATION)
    selector = make()
    add("MR")
    add("lesions", SEGMENTATION)
    assert items(selector) == ["CT", "MR"]
    assert selector.nodeCount() == 2 and selector.nodeFromIndex(1).GetName() == "MR"


def test_child_classes_count_unless_told_otherwise(make, add):
    selector = make()
    add("labels", "vtkMRMLLabelMapVolumeNode")
    assert items(selector) == ["labels"]
    selector.showChildNodeTypes = False
    assert items(selector) == []
    selector.showChildNodeTypes = True
    selector.hideChildNodeTypes = ["vtkMRMLLabelMapVolumeNode"]
    assert items(selector) == []


def test_first_node_is_chosen_only_where_none_is_no_choice(make, add):
    needs_one, may_be_empty = make(), make(none=True)
    node = add("CT")
    assert needs_one.currentNode() is node and needs_one.currentNodeID == node.GetID()
    assert may_be_empty.currentNode() is None and may_be_empty.currentNodeID == ""
    assert items(may_be_empty) == ["None", "CT"]


def test_selector_on_a_filled_scene(make, add):
    node = add("CT")
    add("MR")
    assert make().currentNode() is node
    assert make(none=True).currentNode() is None


def test_announces_each_change_once(make, add, host):
    selector = make(none=True)
    any_chosen, ids = [], []
    selector.connect("currentNodeChanged(bool)", lambda chosen: any_chosen.append(chosen))
    selector.currentNodeIDChanged.connect(lambda node_id: ids.append(node_id))
    names = told(selector)
    first, second = add("CT"), add("MR")
    selector.setCurrentNode(second)
    selector.setCurrentNode(second)
    selector.setCurrentNodeID(first.GetID())
    selector.setCurrentNode(None)
    assert names == ["MR", "CT", None]
    assert any_chosen == [True, True, False]
    assert ids == [second.GetID(), first.GetID(), ""]


def test_node_of_another_class_counts_as_none(make, add):
    selector = make(none=True)
    selector.setCurrentNode(add("organs", SEGMENTATION))
    assert selector.currentNode() is None


def test_chosen_node_that_is_removed_gives_way_to_another(make, add, host):
    selector = make(none=True)
    first, second = add("CT"), add("MR")
    selector.setCurrentNode(second)
    names = told(selector)
    host.scene.RemoveNode(second)
    assert selector.currentNode() is first
    host.scene.RemoveNode(first)
    assert names == ["CT", None] and items(selector) == ["None"]


def test_removing_another_node_changes_nothing(make, add, host):
    selector = make(none=True)
    first, second = add("CT"), add("MR")
    selector.setCurrentNode(second)
    names = told(selector)
    host.scene.RemoveNode(first)
    assert selector.currentNode() is second and set(names) <= {"MR"}


def test_follows_names_and_hiding(make, add):
    selector = make(none=True)
    node = add("CT")
    node.SetName("CT of the thorax")
    assert items(selector) == ["None", "CT of the thorax"]
    node.SetHideFromEditors(True)
    assert items(selector) == ["None"]
    node.SetHideFromEditors(False)
    assert items(selector) == ["None", "CT of the thorax"]


def test_attribute_filter(make, add):
    selector = make(none=True, add=True)
    selector.addAttribute(VOLUME, "Modality", "CT")
    node = add("thorax")
    assert selector.nodeCount() == 0
    node.SetAttribute("Modality", "CT")
    assert selector.nodeCount() == 1
    assert selector.addNode().GetAttribute("Modality") == "CT"


def test_menu_entries(make):
    assert items(make(add=True, remove=True, rename=True)) == [
        "Rename current Volume",
        "Create new Volume",
        "Create new Volume as...",
        "Delete current Volume",
    ]


def test_create_and_delete_from_the_menu(make, host):
    selector = make(none=True, add=True, remove=True)
    selector.baseName = "Warped"
    names, made = told(selector), []
    selector.nodeAddedByUser.connect(lambda node: made.append(node.GetName()))
    activate(selector, "Create new Volume")
    activate(selector, "Create new Volume")
    assert made == names == ["Warped", "Warped_1"]
    activate(selector, "Delete current Volume")
    assert selector.currentNode().GetName() == "Warped"
    assert host.scene.GetNumberOfNodesByClass(VOLUME) == 1


def test_added_node_is_chosen_unless_told_otherwise(make):
    selector = make(none=True, add=True)
    selector.selectNodeUponCreation = False
    node = selector.addNode()
    assert selector.currentNode() is None
    selector.selectNodeUponCreation = True
    assert selector.addNode() is selector.currentNode() is not node


def test_rename_from_the_menu(make, add, host, monkeypatch):
    selector = make(rename=True, none=True)
    node = add("CT")
    selector.setCurrentNode(node)
    monkeypatch.setattr(host.qt.QInputDialog, "getText", lambda *arguments: ("CT 2", True))
    activate(selector, "Rename current Volume")
    assert node.GetName() == "CT 2" and selector.currentNode() is node
    monkeypatch.setattr(host.qt.QInputDialog, "getText", lambda *arguments: ("CT 3", False))
    activate(selector, "Rename current Volume")
    assert node.GetName() == "CT 2"


def test_closing_the_scene_empties_it(make, add, host):
    selector = make(none=True)
    selector.setCurrentNode(add("CT"))
    names = told(selector)
    host.close_scene()
    assert names[-1] is None and items(selector) == ["None"]
    add("MR")
    assert items(selector) == ["None", "MR"]


def test_wish_is_kept_until_a_scene_is_set(add, host):
    add("CT")
    node = add("MR")
    selector = host.slicer.qMRMLNodeComboBox()
    selector.nodeTypes = [VOLUME]
    assert not selector.enabled
    selector.setCurrentNode(node)
    selector.setMRMLScene(host.scene)
    assert selector.currentNode() is node and selector.enabled


def test_destroyed_selector_observes_no_more(add, host):
    selector = host.slicer.qMRMLNodeComboBox()
    selector.nodeTypes = [VOLUME]
    selector.setMRMLScene(host.scene)
    selector.deleteLater()
    host.spin(0)
    add("CT")
    assert host.errors == []


def test_mistyped_property_is_an_error(make):
    with pytest.raises(AttributeError, match="noneEnable"):
        make().noneEnable = True
