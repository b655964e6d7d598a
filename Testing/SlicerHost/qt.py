"""The `qt` module of Slicer for tests: real PySide6 classes that answer as PythonQt's do.

PythonQt differs from PySide6 in what Slicer modules use every day; each difference is bridged here once:

- a Qt property is an attribute (`button.text`, `button.enabled = False`); `name` is short for `objectName`;
- `widget.connect("clicked()", f)` connects by the signal's signature;
- an attribute that the C++ class lacks can't be set, so that a mistyped property name is an error;
- `isinstance(button, qt.QWidget)` is False: each class is wrapped on its own, only exact types compare;
- `QUiLoader` makes the CTK and qMRML stand-ins named in a `.ui` file, and its connections.

This changes PySide6's own classes for the whole process: import it only through `SlicerHost.start`.
"""

import xml.etree.ElementTree as ElementTree

from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtUiTools import QUiLoader as _QUiLoader

# Virtual methods in C++: a Python attribute of that name would be taken for their override.
VIRTUAL_PROPERTIES = {"sizeHint", "minimumSizeHint"}
# PythonQt keeps the static function and hides the property of the same name.
SHADOWED_PROPERTIES = {("QTimer", "singleShot")}
# Not wrapped: abstract ones, and those of which only one instance exists, which Qt itself hands out.
LEFT_AS_THEY_ARE = {"QObject", "QCoreApplication", "QGuiApplication", "QApplication", "QLayout"}
OVERLOADS = {"bool": bool, "int": int, "double": float, "QString": str}
WRAPPED_BESIDES_WIDGETS = {"QTimer", "QProcess", "QAction", "QActionGroup", "QButtonGroup", "QShortcut"}


def _reader(name, method):
    """A property's getter: the C++ method of that name where there is one, for it knows enums and flags."""
    if callable(method):
        return lambda self: method(self)
    return lambda self: QtCore.QObject.property(self, name)


def _writer(name, setter):
    """A property's setter: `setName` where there is one."""
    if setter is None:
        return lambda self, value: QtCore.QObject.setProperty(self, name, value)
    return lambda self, value: setter(self, value)


def _give_properties(cls):
    """Put a Python property over each Qt property that the class itself declares."""
    meta = cls.staticMetaObject
    for index in range(meta.propertyOffset(), meta.propertyCount()):
        declared = meta.property(index)
        name = declared.name()
        method = getattr(cls, name, None)
        hidden = (
            name in VIRTUAL_PROPERTIES
            or name.startswith("_q_")
            or (cls.__name__, name) in SHADOWED_PROPERTIES
        )
        if hidden or isinstance(method, property):
            continue
        setter = getattr(cls, "set" + name[0].upper() + name[1:], None)
        fset = _writer(name, setter) if declared.isWritable() else None
        setattr(cls, name, property(_reader(name, method), fset))


def _public(module):
    """(name, value) pairs; through `dir`, because PySide6 makes its classes when they are first asked for."""
    return [(name, getattr(module, name)) for name in dir(module) if not name.startswith("_")]


def _qobject_classes():
    """Every QObject class of the three PySide6 modules, base classes first."""
    found = {
        value
        for module in (QtCore, QtGui, QtWidgets)
        for _, value in _public(module)
        if isinstance(value, type) and issubclass(value, QtCore.QObject)
    }
    return sorted(found, key=lambda cls: (len(cls.__mro__), cls.__name__))


def _signal_of(obj, signature):
    """The bound signal for a signature such as `clicked(bool)`; ValueError if the class has none such."""
    name, arguments = (part.strip(" )") for part in signature.split("("))
    declared = getattr(type(obj), "signatures", {})
    if signature in declared:
        return getattr(obj, declared[signature])
    normal = QtCore.QMetaObject.normalizedSignature(signature)
    normal = normal if isinstance(normal, str) else bytes(normal.data()).decode()
    if obj.metaObject().indexOfSignal(normal) < 0:
        raise ValueError(f"{type(obj).__name__} has no signal {signature!r}")
    signal = getattr(obj, name)
    # With the overload stated, a slot that takes any number of arguments gets them, as with PythonQt.
    return signal[OVERLOADS[arguments]] if arguments in OVERLOADS else signal


def _slot_of(receiver):
    """`(callable,)` or `(object, "slot()")` as a callable."""
    if len(receiver) == 1:
        return receiver[0]
    target, slot = receiver
    return getattr(target, slot.split("(")[0])


class PythonQtObject:
    """What every wrapped class adds to the PySide6 class beneath it.

    PySide6 answers `obj.connect` in C++ before it looks at base classes, and lets itself be overruled only by
    the instance's own class: so `connect` and `disconnect` are written into each subclass, however far down.
    """

    signatures = {}

    def __init_subclass__(cls):
        cls.connect = PythonQtObject.connect
        cls.disconnect = PythonQtObject.disconnect

    def connect(self, signature, *receiver):
        """Connect the signal with this C++ signature to a callable, or to an object and its slot."""
        _signal_of(self, signature).connect(_slot_of(receiver))
        return True

    def disconnect(self, signature, *receiver):
        """Undo `connect`; with no receiver, drop every connection of the signal."""
        signal = _signal_of(self, signature)
        signal.disconnect(*([_slot_of(receiver)] if receiver else []))
        return True

    def findChild(self, kind, name=""):
        """The first child of that class (wrapped, PySide6's own or its name) and object name, or None."""
        return next(iter(self.findChildren(kind, name)), None)

    def findChildren(self, kind, name=""):
        """All children of that class, and of that object name if one is given."""
        class_name = kind if isinstance(kind, str) else kind.__name__
        named = [name] if name else []
        children = QtCore.QObject.findChildren(self, QtCore.QObject, *named)
        if not isinstance(kind, str) and kind.__dict__.get("is_stand_in"):
            return [child for child in children if isinstance(child, kind)]
        return [child for child in children if child.inherits(class_name)]


def _guard(base):
    """A `__setattr__` that refuses new attributes on wrapped classes; Python subclasses may add them."""

    def set_known(self, name, value):
        cls = type(self)
        private = cls.__dict__.get("is_stand_in") and name.startswith("_")
        guarded = cls.__dict__.get("is_stand_in") or cls.__dict__.get("is_wrapped")
        if guarded and not private and not hasattr(cls, name):
            raise AttributeError(f"{cls.__name__} has no property or attribute {name!r} that could be set")
        base.__setattr__(self, name, value)

    return set_known


def _wrap(cls):
    """The class that modules see as `qt.<Name>`, or the PySide6 class where no subclass of it can be made."""
    body = {"__module__": "qt", "is_wrapped": True, "__setattr__": _guard(cls)}
    return type(cls.__name__, (PythonQtObject, cls), body)


def _is_wrapped_kind(cls):
    if not (isinstance(cls, type) and issubclass(cls, QtCore.QObject)) or cls.__name__ in LEFT_AS_THEY_ARE:
        return False
    return issubclass(cls, (QtWidgets.QWidget, QtWidgets.QLayout)) or cls.__name__ in WRAPPED_BESIDES_WIDGETS


for _cls in _qobject_classes():
    _give_properties(_cls)
QtCore.QObject.name = property(
    lambda self: self.objectName, lambda self, value: QtCore.QObject.setObjectName(self, value)
)
QtCore.QObject.className = lambda self: self.metaObject().className()

WRAPPED = {}
for _module in (QtCore, QtGui, QtWidgets):
    for _name, _value in _public(_module):
        if _is_wrapped_kind(_value):
            _value = WRAPPED[_name] = _wrap(_value)
        globals()[_name] = _value

STAND_INS = {}


def stand_in(cls):
    """Class decorator: make a stand-in known to `.ui` files and guard it against mistyped names."""
    cls.is_stand_in = True
    STAND_INS[cls.__name__] = cls
    return cls


class QUiLoader(_QUiLoader):
    """Loads the same `.ui` file as Slicer does: custom widgets by stand-in, connections by name.

    Connections are made here, for Qt finds no slots with arguments such as `vtkMRMLScene*` in Python classes.
    """

    def __init__(self, parent=None):
        super().__init__(parent)
        for cls in STAND_INS.values():
            self.registerCustomWidget(cls)

    def createWidget(self, class_name, parent=None, name=""):
        """Called by Qt for every widget of the file."""
        cls = STAND_INS.get(class_name) or WRAPPED.get(class_name)
        if cls is None:
            return super().createWidget(class_name, parent, name)
        widget = cls(parent) if parent is not None else cls()
        widget.setObjectName(name)
        return widget

    def load(self, device, parent=None):
        """The file's top widget. RuntimeError for a widget class without stand-in or a broken connection."""
        root = ElementTree.fromstring(bytes(device.readAll().data()))
        unknown = {entry.findtext("class") for entry in root.iter("customwidget")} - set(STAND_INS)
        if unknown:
            raise RuntimeError(f"the test host has no stand-in for {', '.join(sorted(unknown))}")
        connections = [
            [entry.findtext(part) for part in ("sender", "signal", "receiver", "slot")]
            for entry in root.iter("connection")
        ]
        for section in root.findall("connections"):
            root.remove(section)
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(root))
        buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
        top = super().load(buffer, parent)
        if top is None:
            raise RuntimeError(f"Qt can't load the .ui file: {self.errorString()}")
        for connection in connections:
            _make_connection(top, connection)
        return top


def _make_connection(top, connection):
    """Make one `<connection>` of a `.ui` file: sender, signal, receiver, slot."""
    sender_name, signal, receiver_name, slot = connection

    def named(name):
        found = top if top.objectName == name else QtCore.QObject.findChild(top, QtCore.QObject, name)
        if found is None:
            raise RuntimeError(f"the .ui file connects {name!r}, which it does not contain")
        return found

    sender, receiver = named(sender_name), named(receiver_name)
    slot_name = slot.split("(")[0]
    if not hasattr(receiver, slot_name):
        raise RuntimeError(f"the .ui file connects to {receiver_name}.{slot}, which does not exist")
    _signal_of(sender, signal).connect(getattr(receiver, slot_name))
