"""What Slicer's Python binding of Qt, PythonQt, answers when a panel uses widgets; the host agrees.

The expected answers were recorded with PythonQt itself.
"""

import pytest

from SlicerHost.facts import Facts, spin

FACTS = Facts()
answers = FACTS.answers
SMALL_UI = """<?xml version="1.0" encoding="UTF-8"?>
<ui version="4.0"><class>Panel</class><widget class="QWidget" name="Panel">
 <layout class="QVBoxLayout" name="column">
  <item><widget class="QPushButton" name="runButton">
   <property name="text"><string>Run</string></property>
   <property name="SlicerParameterName" stdset="0"><string>speed</string></property></widget></item>
  <item><widget class="QLabel" name="caption"/></item>
 </layout></widget></ui>"""


# Properties


@answers(("Go", "Stop", "Wait"))
def text_is_an_attribute(qt):
    button = qt.QPushButton("Go")
    seen = [button.text]
    button.text = "Stop"
    seen.append(button.text)
    button.setText("Wait")
    return (*seen, button.text)


@answers(TypeError)
def text_is_no_method(qt):
    return qt.QPushButton("Go").text()


@answers((False, False, True))
def enabled_by_attribute_setter_and_question(qt):
    button = qt.QPushButton()
    button.enabled = False
    answer = button.enabled
    button.enabled = True
    button.setEnabled(False)
    question = button.isEnabled()
    button.setEnabled(True)
    return answer, question, button.enabled


@answers(("Go", "1", None))
def named_and_dynamic_properties(qt):
    button = qt.QPushButton()
    button.setProperty("text", "Go")
    button.setProperty("level", "1")
    return button.property("text"), button.property("level"), button.property("absent")


@answers((True, False, True, True))
def visible(qt):
    label = qt.QLabel()
    label.show()
    shown = label.visible
    label.hide()
    hidden = label.visible
    label.visible = True
    again = label.isVisible()
    label.setVisible(False)
    label.setVisible(True)
    return shown, hidden, again, label.visible


@answers(("apply", "apply", "run"))
def name_and_object_name(qt):
    button = qt.QPushButton()
    button.setObjectName("apply")
    first = button.name, button.objectName
    button.objectName = "run"
    return (*first, button.name)


@answers((50, 50, 20))
def size_and_width_are_attributes(qt):
    label = qt.QLabel()
    label.resize(50, 20)
    return label.width, label.size.width(), label.size.height()


@answers((1.2346, -5.0, 1e6, 0.1))
def double_spin_box(qt):
    spin_box = qt.QDoubleSpinBox()
    spin_box.minimum, spin_box.maximum = -5, 1e6
    spin_box.decimals, spin_box.singleStep = 4, 0.1
    spin_box.value = 1.23456
    return spin_box.value, spin_box.minimum, spin_box.maximum, spin_box.singleStep


@answers(10)
def slider_clips(qt):
    slider = qt.QSlider()
    slider.setRange(0, 10)
    slider.value = 20
    return slider.value


@answers((5, "5/10", "%v/%m"))
def progress_bar(qt):
    bar = qt.QProgressBar()
    bar.minimum, bar.maximum, bar.value = 0, 10, 5
    bar.setFormat("%v/%m")
    return bar.value, bar.text, bar.format


@answers(("a\nb", "a\nb"))
def plain_text_edit(qt):
    edit = qt.QPlainTextEdit()
    edit.appendPlainText("a")
    edit.appendPlainText("b")
    return edit.plainText, edit.toPlainText()


@answers("careful")
def message_box_text(qt):
    box = qt.QMessageBox()
    box.setText("careful")
    return box.text


# Lists, tables, combo boxes


@answers(("A", "B", 1, 2, "b", 1))
def combo_box_with_data(qt):
    combo = qt.QComboBox()
    combo.addItem("a", "A")
    combo.addItem("b", "B")
    combo.currentText = "b"
    return (
        combo.itemData(0),
        combo.currentData,
        combo.findData("B"),
        combo.count,
        combo.itemText(1),
        combo.currentIndex,
    )


@answers((1, 0))
def combo_box_find_and_clear(qt):
    combo = qt.QComboBox()
    combo.addItems(["a", "b"])
    row = combo.findText("b")
    combo.clear()
    return row, combo.count


@answers(("v", 2))
def table_widget(qt):
    table = qt.QTableWidget()
    table.rowCount, table.columnCount = 2, 1
    table.setItem(0, 0, qt.QTableWidgetItem("v"))
    return table.item(0, 0).text(), table.rowCount


@answers(("v", 0, 1))
def list_widget(qt):
    items = qt.QListWidget()
    items.addItem("v")
    items.currentRow = 0
    return items.item(0).text(), items.currentRow, items.count


@answers((1, "A", 2))
def tab_widget(qt):
    tabs = qt.QTabWidget()
    for title in "AB":
        tabs.addTab(qt.QWidget(), title)
    tabs.currentIndex = 1
    return tabs.currentIndex, tabs.tabText(0), tabs.count


# Widgets and their tree


@answers((2, True, True, 0))
def layouts(qt):
    outer, inner = qt.QWidget(), qt.QWidget()
    column = qt.QVBoxLayout(outer)
    column.addWidget(qt.QLabel())
    form = qt.QFormLayout()
    form.addRow("a:", qt.QLineEdit())
    column.addLayout(form)
    inner.setLayout(qt.QVBoxLayout())
    return column.count(), outer.layout() == column, len(outer.children()) > 0, inner.layout().count()


@answers(("Go", "Go", None, 1, True, True, True))
def find_and_parent(qt):
    parent = qt.QWidget()
    button = qt.QPushButton("Go", parent)
    button.setObjectName("n")
    return (
        parent.findChild(qt.QPushButton, "n").text,
        parent.findChild("QPushButton", "n").text,
        parent.findChild(qt.QLabel, "n"),
        len(parent.findChildren(qt.QWidget)),
        parent.children() == [button],
        button.parent() == parent,
        button.parentWidget() is parent,
    )


@answers((True, False, True, "QPushButton"))
def classes_compare_exactly(qt):
    button = qt.QPushButton()
    return (
        type(button) == qt.QPushButton,  # noqa: E721
        isinstance(button, qt.QWidget),
        button.inherits("QAbstractButton"),
        button.className(),
    )


@answers(("speed", True, ["caption", "column", "runButton"]))
def load_ui_file(qt):
    path = qt.QDir.temp().absoluteFilePath("slicer-host-small.ui")
    with open(path, "w") as stream:
        stream.write(SMALL_UI)
    file = qt.QFile(path)
    file.open(qt.QFile.ReadOnly)
    widget = qt.QUiLoader().load(file)
    file.close()
    file.remove()
    found = widget.findChild(qt.QPushButton, "runButton")
    named = {child.name for child in widget.children() if child.name}
    return found.property("SlicerParameterName"), type(found) is qt.QPushButton, sorted(named)


@answers(AttributeError)
def new_attribute_on_a_widget(qt):
    qt.QPushButton().note = 1


@answers(AttributeError)
def mistyped_property(qt):
    qt.QPushButton().txt = "x"


@answers((True, False, True, 1, True))
def truth_equality_and_hash(qt):
    button = qt.QPushButton()
    return bool(button), button == None, button is not None, {button: 1}[button], button in [button]  # noqa: E711


@answers(True)
def overridden_event_handler(qt):
    calls = []

    class Label(qt.QLabel):
        def resizeEvent(self, event):
            calls.append(event)

    label = Label()
    label.resize(33, 44)
    label.show()
    spin(qt, 0.02)
    return len(calls) > 0


@answers((True, True))
def grab_to_a_picture_and_delete_later(qt):
    label = qt.QLabel("x")
    path = qt.QDir.temp().absoluteFilePath("slicer-host-grab.png")
    saved = label.grab().save(path)
    label.deleteLater()
    return saved, qt.QFile.remove(path)


# Enums, statics, settings


@answers((1, True))
def enums_scoped_or_not(qt):
    return qt.Qt.Horizontal.value, qt.Qt.Orientation.Horizontal == qt.Qt.Horizontal


@answers(None)
def flags_and_policies(qt):
    qt.QWidget().setSizePolicy(qt.QSizePolicy.Expanding, qt.QSizePolicy.Fixed)
    qt.QLabel().setAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
    qt.QApplication.setOverrideCursor(qt.Qt.WaitCursor)
    qt.QApplication.restoreOverrideCursor()


@answers((True, True, True))
def names_that_exist(qt):
    return callable(qt.QFileDialog.getOpenFileName), hasattr(qt, "Signal"), hasattr(qt, "Property")


@answers(("1", None, "d", False))
def settings(qt):
    path = qt.QDir.temp().absoluteFilePath("slicer-host-settings.ini")
    kept = qt.QSettings(path, qt.QSettings.IniFormat)
    kept.setValue("a/b", "1")
    values = kept.value("a/b"), kept.value("none"), kept.value("none", "d"), kept.value("none", False)
    kept.sync()
    qt.QFile.remove(path)
    return values


@pytest.mark.parametrize(("idiom", "expected"), FACTS.table)
def test_widgets_answer_as_with_pythonqt(running_host, idiom, expected):
    assert FACTS.answer(running_host.qt, idiom) == expected
