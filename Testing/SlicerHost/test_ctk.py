"""The CTK stand-ins: values, signals by CTK's signatures, and what folds and unfolds."""

import pytest


@pytest.fixture
def folder(host):
    """A collapsible button with two labels, the second hidden by the panel itself."""
    button = host.ctk.ctkCollapsibleButton("Advanced")
    column = host.qt.QVBoxLayout(button)
    button_labels = [host.qt.QLabel(text) for text in "ab"]
    for label in button_labels:
        column.addWidget(label)
    button_labels[1].hide()
    yield button, button_labels
    button.deleteLater()


def test_collapsible_button_hides_and_shows_its_contents(folder):
    button, (first, second) = folder
    told = []
    button.connect("contentsCollapsed(bool)", lambda collapsed: told.append(collapsed))
    button.show()
    assert (first.visible, second.visible) == (True, False)
    button.collapsed = True
    assert (first.visible, second.visible) == (False, False) and button.maximumHeight < 40
    button.collapsed = False
    assert (first.visible, second.visible) == (True, False) and button.maximumHeight > 1000
    assert told == [True, False] and button.text == "Advanced"


def test_collapsed_before_it_is_shown(folder):
    """As in a `.ui` file, where the contents come after the property."""
    button, (first, second) = folder
    button.collapsed = True
    button.show()
    assert (first.visible, second.visible) == (False, False)
    button.collapsed = False
    assert (first.visible, second.visible) == (True, False)


def test_contents_added_while_collapsed(host, folder):
    button, _ = folder
    button.collapsed = True
    late = host.qt.QLabel("late")
    button.layout().addWidget(late)
    button.show()
    assert not late.visible
    button.collapsed = False
    assert late.visible


def test_collapsible_button_is_clicked_open(folder):
    button, (first, _) = folder
    button.collapsed = True
    button.show()
    button.findChildren("QToolButton")[0].click()
    assert not button.collapsed and button.checked and first.visible


@pytest.mark.parametrize("name", ["ctkSliderWidget", "ctkDoubleSpinBox", "ctkDoubleSlider"])
def test_numbers(host, name):
    told = []
    widget = getattr(host.ctk, name)()
    widget.minimum, widget.maximum = -2, 6
    widget.connect("valueChanged(double)", lambda value: told.append(value))
    widget.value = 2.5
    widget.value = 99
    assert told == [2.5, 6.0] and widget.value == 6


def test_slider_moves_its_spin_box(host):
    widget = host.ctk.ctkSliderWidget()
    widget.setRange(0, 10)
    widget.findChildren("QSlider")[0].value = 250
    assert widget.value == 2.5


def test_range_keeps_the_order(host):
    told = []
    widget = host.ctk.ctkRangeWidget()
    widget.setRange(0, 10)
    widget.setValues(7, 3)
    widget.connect("valuesChanged(double,double)", lambda lower, upper: told.append((lower, upper)))
    widget.minimumValue = 4
    assert (widget.minimumValue, widget.maximumValue) == (4, 7) and told == [(4, 7)]


def test_checkable_combo_box(host):
    told = []
    box = host.ctk.ctkCheckableComboBox()
    box.addItems(["liver", "spleen"])
    box.connect("checkedIndexesChanged()", lambda: told.append(len(box.checkedIndexes())))
    assert box.noneChecked() and not box.allChecked()
    box.setCheckState(box.model().index(1, 0), host.qt.Qt.Checked)
    assert [index.row() for index in box.checkedIndexes()] == [1] and told == [1]
    box.setCheckState(box.model().index(0, 0), host.qt.Qt.Checked)
    assert box.allChecked()


def test_paths(host, tmp_path):
    line, button, told = host.ctk.ctkPathLineEdit(), host.ctk.ctkDirectoryButton(), []
    line.connect("currentPathChanged(QString)", lambda path: told.append(path))
    button.connect("directoryChanged(QString)", lambda path: told.append(path))
    line.currentPath = "a.nii.gz"
    line.currentPath = ""  # of which CTK says nothing
    button.directory = str(tmp_path)
    button.directory = str(tmp_path)
    assert told == ["a.nii.gz", str(tmp_path)]
    line.filters = line.Dirs | line.Readable
    line.nameFilters = ["*.yaml"]
    assert line.filters == line.Dirs | line.Readable and list(line.nameFilters) == ["*.yaml"]


def test_paths_of_another_ending_are_not_told_by_the_line_but_by_its_combo_box(host):
    line, told, typed = host.ctk.ctkPathLineEdit(), [], []
    line.nameFilters = ["Networks (*.pt *.index)", "All files (*)"]
    line.currentPathChanged.connect(lambda path: told.append(path))
    line.comboBox().editTextChanged.connect(lambda path: typed.append(path))
    for path in ("a/best.pt", "a/ckpt-2", "a/ckpt-2.index"):
        line.currentPath = path
    assert told == ["a/best.pt", "a/ckpt-2.index"] and typed == ["a/best.pt", "a/ckpt-2", "a/ckpt-2.index"]
    assert line.currentPath == "a/ckpt-2.index"


def test_the_paths_used_last_are_kept_and_the_last_one_is_shown(host):
    def line():
        made = host.ctk.ctkPathLineEdit()
        made.settingKey = "Networks"
        return made

    first = line()
    assert first.currentPath == ""
    for number in range(7):
        first.currentPath = f"{number}.pt"
        first.addCurrentPathToHistory()
    first.currentPath = "4.pt"
    first.addCurrentPathToHistory()
    assert first.currentPath == "4.pt"
    again = line()
    offered = [again.comboBox().itemText(row) for row in range(again.comboBox().count)]
    assert offered == ["4.pt", "6.pt", "5.pt", "3.pt", "2.pt"] and again.currentPath == "4.pt"
    other = host.ctk.ctkPathLineEdit()
    other.settingKey = "Others"
    assert other.currentPath == ""


def test_default_text_of_a_combo_box(host):
    box = host.ctk.ctkComboBox()
    box.defaultText = "Select a method"
    assert box.defaultText == "Select a method" and box.currentIndex == -1


def test_unknown_names_are_errors(host):
    slider = host.ctk.ctkSliderWidget()
    with pytest.raises(AttributeError, match="maximun"):
        slider.maximun = 3
    with pytest.raises(ValueError, match="valueChange"):
        slider.connect("valueChange(double)", print)
