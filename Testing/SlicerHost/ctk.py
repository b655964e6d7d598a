"""The `ctk` module of Slicer for tests: the CTK widgets that panels use, with CTK's names and signals."""

import re
from pathlib import Path

from . import qt
from .numberwidgets import (  # noqa: F401  (names of Slicer's `ctk` module)
    ctkDoubleRangeSlider,
    ctkDoubleSlider,
    ctkDoubleSpinBox,
    ctkRangeWidget,
    ctkSliderWidget,
    forwarded,
    row_layout,
)

Signal, Property = qt.Signal, qt.Property
HEADER_HEIGHT = 24
UNLIMITED_HEIGHT = 16777215  # QWIDGETSIZE_MAX


@qt.stand_in
class ctkCollapsibleButton(qt.QWidget):
    """A titled container whose contents fold away; `collapsed` is false at first."""

    contentsCollapsed = Signal(bool)
    clicked = Signal()
    toggled = Signal(bool)

    def __init__(self, title="", parent=None):
        if not isinstance(title, str):
            title, parent = "", title
        super().__init__(parent)
        self._collapsed = False
        self._shown_before = {}
        self._header = qt.QToolButton(self)
        self._header.setToolButtonStyle(qt.Qt.ToolButtonTextBesideIcon)
        self._header.setArrowType(qt.Qt.DownArrow)
        self._header.setText(title)
        self._header.setAutoRaise(False)
        self._header.clicked.connect(self.click)
        self.setContentsMargins(0, HEADER_HEIGHT, 0, 0)

    def resizeEvent(self, event):
        """Keep the header as wide as the widget."""
        self._header.setGeometry(0, 0, event.size().width(), HEADER_HEIGHT - 2)

    def click(self):
        """What a click on the header does."""
        self._set_collapsed(not self._collapsed)
        self.clicked.emit()

    def toggle(self):
        """Fold if open, open if folded."""
        self._set_collapsed(not self._collapsed)

    def setText(self, title):
        """The title in the header."""
        self._header.setText(title)

    def setCollapsed(self, collapsed):
        """Fold or unfold the contents."""
        self._set_collapsed(collapsed)

    def _set_collapsed(self, collapsed):
        if bool(collapsed) == self._collapsed:
            return
        self._collapsed = bool(collapsed)
        self._header.setArrowType(qt.Qt.RightArrow if self._collapsed else qt.Qt.DownArrow)
        self._show_contents()
        self.toggled.emit(not self._collapsed)
        self.contentsCollapsed.emit(self._collapsed)

    def _show_contents(self):
        """Hide the contents, or show again those that the panel itself had not hidden."""
        for child in self.children():
            if not child.isWidgetType() or child is self._header:
                continue
            if self._collapsed:
                self._shown_before.setdefault(child, not child.isHidden())
                child.hide()
            else:
                child.setVisible(self._shown_before.pop(child, not child.isHidden()))
        self.setMaximumHeight(HEADER_HEIGHT if self._collapsed else UNLIMITED_HEIGHT)

    def showEvent(self, event):
        """Contents that a `.ui` file adds after `collapsed` are folded at the latest when shown."""
        if self._collapsed:
            self._show_contents()

    text = forwarded(str, "_header", "text")
    collapsed = Property(bool, lambda self: self._collapsed, _set_collapsed)
    checked = Property(bool, lambda self: not self._collapsed, lambda self, on: self._set_collapsed(not on))


@qt.stand_in
class ctkPathLineEdit(qt.QWidget):
    """A line for the path of a file or folder, with the paths used last and a button to browse.

    As CTK's it keeps five paths in the settings under `settingKey`, shows the last of them when the key is
    set, and tells of a change only if the path is not empty and has an ending that `nameFilters` name; "(*)"
    names none. The button does nothing here.
    """

    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)
    # Plain numbers: Qt reads a flag's type from C++ only, so a .ui file must not set `filters`.
    Files, Dirs, Readable, Writable, Executable = 0x002, 0x001, 0x010, 0x020, 0x040
    LONGEST_HISTORY = 5

    def __init__(self, parent=None):
        super().__init__(parent)
        self._combo = qt.QComboBox()
        self._combo.editable = True
        self._combo.setInsertPolicy(qt.QComboBox.NoInsert)
        self._combo.setSizeAdjustPolicy(qt.QComboBox.AdjustToMinimumContentsLengthWithIcon)
        self._browse = qt.QToolButton()
        self._browse.setText("…")
        self._filters = self.Files
        self._name_filters, self._setting_key, self._valid = [], "", False
        row_layout(self, self._combo, self._browse)
        self.setSizePolicy(qt.QSizePolicy.Expanding, qt.QSizePolicy.Fixed)
        self._combo.setSizePolicy(qt.QSizePolicy.Expanding, qt.QSizePolicy.Fixed)
        self._combo.editTextChanged.connect(self._on_text)

    def comboBox(self):
        """The combo box within; its `editTextChanged` tells of every change."""
        return self._combo

    def _on_text(self):
        endings = [word[2:] for text in self._name_filters for word in re.findall(r"\*\.\w+", text)]
        path = self.currentPath
        valid = path.endswith(tuple(f".{ending}" for ending in endings)) if endings else bool(path)
        if valid:
            self.currentPathChanged.emit(path)
        if valid != self._valid:
            self._valid = valid
            self.validInputChanged.emit(valid)

    def setCurrentPath(self, path):
        """Show this path."""
        self._combo.setEditText(path)

    def _history(self):
        kept = qt.QSettings().value(f"ctkPathLineEdit/{self._setting_key or self.objectName}", [])
        return [kept] if isinstance(kept, str) else list(kept or [])

    def retrieveHistory(self):
        """Offer the paths used last; the newest is shown if there is no path."""
        path = self.currentPath
        blocked = self.blockSignals(True)
        self._combo.clear()
        self._combo.addItems(self._history()[: self.LONGEST_HISTORY])
        if path:
            self.setCurrentPath(path)
        self.blockSignals(blocked)
        if not path:
            self._combo.setCurrentIndex(-1)
            self._combo.setCurrentIndex(0)

    def addCurrentPathToHistory(self):
        """Keep the path among those used last, as the newest."""
        path = self.currentPath
        if not path:
            return
        history = [path, *(old for old in self._history() if old != path)]
        qt.QSettings().setValue(f"ctkPathLineEdit/{self._setting_key or self.objectName}", history)
        self._combo.blockSignals(True)
        self._combo.clear()
        self._combo.addItems(history[: self.LONGEST_HISTORY])
        self._combo.setCurrentIndex(0)
        self._combo.blockSignals(False)

    def _set_setting_key(self, key):
        self._setting_key = key
        self.retrieveHistory()

    currentPath = Property(str, lambda self: self._combo.currentText, setCurrentPath)
    filters = Property(int, lambda self: self._filters, lambda self, value: setattr(self, "_filters", value))
    nameFilters = Property(
        "QStringList",
        lambda self: self._name_filters,
        lambda self, value: setattr(self, "_name_filters", list(value)),
    )
    settingKey = Property(str, lambda self: self._setting_key, _set_setting_key)


@qt.stand_in
class ctkDirectoryButton(qt.QWidget):
    """A button that shows a folder, as an absolute path; empty means the current folder."""

    directoryChanged = Signal(str)
    directorySelected = Signal(str)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._button = qt.QPushButton(".")
        self._path = Path.cwd()
        row_layout(self, self._button)

    def _set_directory(self, path):
        path = Path(path).absolute()
        if path != self._path:
            self._path = path
            self._button.setText(str(path))
            self.directoryChanged.emit(str(path))

    def setDirectory(self, path):
        """Show this folder."""
        self._set_directory(path)

    directory = Property(str, lambda self: str(self._path), _set_directory)
    caption = forwarded(str, "_button", "toolTip")


@qt.stand_in
class ctkComboBox(qt.QComboBox):
    """A combo box with a text for the case that nothing is chosen."""

    def _set_default_text(self, text):
        self.setPlaceholderText(text)

    defaultText = Property(str, lambda self: self.placeholderText, _set_default_text)


@qt.stand_in
class ctkCheckableComboBox(qt.QComboBox):
    """A combo box with a tick at each item."""

    checkedIndexesChanged = Signal()

    def __init__(self, parent=None):
        super().__init__(parent)
        self.model().itemChanged.connect(lambda item: self.checkedIndexesChanged.emit())
        self.model().rowsInserted.connect(self._make_checkable)

    def _make_checkable(self, parent, first, last):
        for row in range(first, last + 1):
            item = self.model().item(row)
            item.setCheckable(True)
            if item.data(qt.Qt.CheckStateRole) is None:
                item.setCheckState(qt.Qt.Unchecked)

    def checkedIndexes(self):
        """The model indexes of the ticked items."""
        rows = range(self.model().rowCount())
        return [
            self.model().index(row, 0) for row in rows if self.model().item(row).checkState() == qt.Qt.Checked
        ]

    def setCheckState(self, index, state):
        """Tick or untick the item at this model index."""
        self.model().itemFromIndex(index).setCheckState(state)

    def checkState(self, index):
        """The tick of the item at this model index."""
        return self.model().itemFromIndex(index).checkState()

    def allChecked(self):
        """Whether every item is ticked."""
        return len(self.checkedIndexes()) == self.model().rowCount()

    def noneChecked(self):
        """Whether no item is ticked."""
        return not self.checkedIndexes()


@qt.stand_in
class ctkCheckBox(qt.QCheckBox):
    """A check box that CTK can give an indicator icon."""


@qt.stand_in
class ctkPushButton(qt.QPushButton):
    """A push button with alignments."""


@qt.stand_in
class ctkCheckablePushButton(qt.QPushButton):
    """A push button with a check box in it."""

    checkBoxToggled = Signal(bool)

    def __init__(self, text="", parent=None):
        if not isinstance(text, str):
            text, parent = "", text
        super().__init__(text, parent)
        self._controls_state = False

    checkBoxControlsButtonToggleState = Property(
        bool, lambda self: self._controls_state, lambda self, value: setattr(self, "_controls_state", value)
    )


@qt.stand_in
class ctkFittedTextBrowser(qt.QTextBrowser):
    """A text browser as high as its text."""


@qt.stand_in
class ctkColorPickerButton(qt.QPushButton):
    """A button that shows a colour."""

    colorChanged = Signal(qt.QColor)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._color = qt.QColor()

    def _set_color(self, color):
        if color != self._color:
            self._color = color
            self.colorChanged.emit(color)

    color = Property(qt.QColor, lambda self: self._color, _set_color)


@qt.stand_in
class ctkMessageBox(qt.QMessageBox):
    """A message box that can be told not to show again."""

    def __init__(self, parent=None):
        super().__init__(parent)
        self._settings_key = ""

    dontShowAgainSettingsKey = Property(
        str, lambda self: self._settings_key, lambda self, value: setattr(self, "_settings_key", value)
    )
