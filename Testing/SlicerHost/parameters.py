"""`slicer.parameterNodeWrapper` for tests: typed parameters in a MRML node, and their binding to widgets.

Covers nodes, int, float, str, bool, Enum and paths, with WithinRange, Minimum, Maximum, Choice and Default.
Any other type is refused with its name, so that a module can't rely on what the test host lacks.
"""

import enum
import pathlib
import types
import typing
import weakref
from dataclasses import dataclass

import slicer
import vtk

from .connectors import connector_for

PROPERTY = "SlicerParameterName"


@dataclass(frozen=True)
class WithinRange:
    """The value is within [minimum, maximum]."""

    minimum: float
    maximum: float

    def validate(self, value):
        """ValueError if not."""
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"Value must be within range [{self.minimum}, {self.maximum}], is {value}")


@dataclass(frozen=True)
class Minimum:
    """The value is at least `minimum`."""

    minimum: float

    def validate(self, value):
        """ValueError if not."""
        if value < self.minimum:
            raise ValueError(f"Value must be at least {self.minimum}, is {value}")


@dataclass(frozen=True)
class Maximum:
    """The value is at most `maximum`."""

    maximum: float

    def validate(self, value):
        """ValueError if not."""
        if value > self.maximum:
            raise ValueError(f"Value must be at most {self.maximum}, is {value}")


@dataclass(frozen=True)
class Choice:
    """The value is one of `choices`."""

    choices: list

    def validate(self, value):
        """ValueError if not."""
        if value not in self.choices:
            raise ValueError(f"Value must be one of {self.choices}, is {value!r}")


@dataclass(frozen=True)
class Default:
    """The first value of the parameter."""

    value: object


@dataclass(frozen=True)
class Decimals:
    """How many decimals the widget shows."""

    value: int


@dataclass(frozen=True)
class SingleStep:
    """By how much one click changes the widget's value."""

    value: float


def split_annotations(kind):
    """(type, annotations) of a plain or `Annotated` type."""
    if typing.get_origin(kind) is typing.Annotated:
        inner, *annotations = typing.get_args(kind)
        return inner, annotations
    return kind, []


def node_classes(kind):
    """The MRML classes that the type allows: one, or those of a union; empty for a type that is no node."""
    members = [kind]
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(kind) if member is not type(None)]
        if len(members) == len(typing.get_args(kind)):
            raise TypeError(f"Slicer can't keep None in {kind}: it has to be one of the types")
    all_nodes = all(isinstance(member, type) and issubclass(member, slicer.vtkMRMLNode) for member in members)
    return members if all_nodes else []


class Parameter:
    """How one parameter is kept in the node: checks, text form, default."""

    def __init__(self, name, annotated, default):
        self.name = name
        self.annotated = annotated
        self.type, self.annotations = split_annotations(annotated)
        self.node_classes = node_classes(self.type)
        if not self.node_classes and not self._is_value():
            raise TypeError(f"the test host keeps no parameter of type {annotated} ({name})")
        stated = [note.value for note in self.annotations if isinstance(note, Default)]
        self.default = default if default is not None else stated[0] if stated else self._own_default()

    def _is_value(self):
        return isinstance(self.type, type) and issubclass(
            self.type, (int, float, str, bool, enum.Enum, pathlib.PurePath)
        )

    def _own_default(self):
        if self.node_classes:
            return None
        if issubclass(self.type, enum.Enum):
            return next(iter(self.type))
        return self.type()

    def _check(self, value):
        """TypeError for a wrong type, ValueError for a value that an annotation forbids."""
        allowed = tuple(self.node_classes) or ((int, float) if self.type is float else self.type)
        if value is None and not self.node_classes:
            raise ValueError(f"{self.name} must not be None")
        if value is not None and not isinstance(value, allowed):
            raise TypeError(f"{self.name} must be of type {self.type}, is {type(value)} with value {value!r}")
        for note in self.annotations:
            if hasattr(note, "validate"):
                note.validate(value)

    def is_in(self, node):
        """Whether the node has a value for this parameter."""
        return bool(node.HasParameter(self.name))

    def write(self, node, value):
        """Keep the value in the node; one ModifiedEvent at most, none if nothing changes."""
        self._check(value)
        with slicer.util.NodeModify(node):
            if self.node_classes:
                node.SetParameter(self.name, "")
                node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
            elif issubclass(self.type, enum.Enum):
                node.SetParameter(self.name, value.name)
            else:
                node.SetParameter(self.name, str(value))

    def read(self, node):
        """The value in the node; the default is written first if there is none."""
        if not self.is_in(node):
            self.write(node, self.default)
        if self.node_classes:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        if issubclass(self.type, enum.Enum):
            return self.type[text]
        return text == "True" if self.type is bool else self.type(text)


class _Wrapper:
    """The methods that the decorator gives to the class."""

    def __init__(self, parameterNode, prefix=None):
        self.parameterNode = parameterNode
        self._bindings = {}
        self._next_tag = 0
        self._updating = False
        if prefix:
            raise NotImplementedError("the test host keeps one set of parameters in a node")
        for parameter in self.allParameters.values():
            if not parameter.is_in(parameterNode):
                parameter.write(parameterNode, parameter.default)
        # As in Slicer, values are kept here until the node says that it changed, which a node does not when
        # a scene was loaded and its references can be followed.
        self._values = {}
        self._read_all()
        seen = weakref.ref(self)
        parameterNode.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: seen() and seen()._read_all())

    def _read_all(self):
        self._values = {name: one.read(self.parameterNode) for name, one in self.allParameters.items()}

    def _set(self, parameter, value):
        with slicer.util.NodeModify(self.parameterNode):
            parameter.write(self.parameterNode, value)
            self._values[parameter.name] = parameter.read(self.parameterNode)

    def _parameter(self, name):
        if name not in self.allParameters:
            raise ValueError(
                f"Cannot find a param with the given name: {name}; there are {list(self.allParameters)}"
            )
        return self.allParameters[name]

    def getValue(self, name):
        """The value of the parameter of that name."""
        return self._values[self._parameter(name).name]

    def setValue(self, name, value):
        """Keep a value under that name."""
        self._set(self._parameter(name), value)

    def default(self, name):
        """The Default of the parameter of that name."""
        return Default(self._parameter(name).default)

    def dataType(self, name):
        """The type as annotated."""
        return self._parameter(name).annotated

    def connectGui(self, gui):
        """Bind every widget with the property SlicerParameterName in a widget or `childWidgetVariables`."""
        is_widget = getattr(gui, "isWidgetType", lambda: False)()
        widgets = gui.findChildren("QWidget") if is_widget else vars(gui).values()
        return self.connectParametersToGui(
            {widget.property(PROPERTY): widget for widget in widgets if widget.property(PROPERTY)}
        )

    def connectParametersToGui(self, mapping):
        """Bind parameter names to widgets, both ways, until `disconnectGui` with the tag returned."""
        connectors = {name: connector_for(widget, self._parameter(name)) for name, widget in mapping.items()}
        for name, connector in connectors.items():
            connector.write(self.getValue(name))
            connector.connect(lambda name=name, connector=connector: self._from_gui(name, connector))
        observer = self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda caller, event: self._to_gui())
        self._next_tag += 1
        self._bindings[self._next_tag] = (connectors, observer)
        return self._next_tag

    def disconnectGui(self, tag):
        """Undo the binding that was given this tag."""
        connectors, observer = self._bindings.pop(tag, ({}, None))
        for connector in connectors.values():
            connector.disconnect()
        if observer is not None:
            self.RemoveObserver(observer)

    def _from_gui(self, name, connector):
        if not self._updating:
            self.setValue(name, connector.read())

    def _to_gui(self):
        if self._updating:
            return
        self._updating = True
        try:
            with slicer.util.NodeModify(self.parameterNode):
                for connectors, _ in list(self._bindings.values()):
                    for name, connector in connectors.items():
                        connector.write(self.getValue(name))
        finally:
            self._updating = False

    def StartModify(self):
        """Hold back events; returns what EndModify wants."""
        return self.parameterNode.StartModify()

    def EndModify(self, wasModified):
        """Send one event for all changes since StartModify."""
        return self.parameterNode.EndModify(wasModified)

    def Modified(self):
        """Send an event."""
        self.parameterNode.Modified()

    def AddObserver(self, event, callback, priority=0.0):
        """Observe the node; returns the tag."""
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag):
        """Undo AddObserver."""
        self.parameterNode.RemoveObserver(tag)


def _property_of(parameter):
    return property(
        lambda self: self._values[parameter.name],
        lambda self, value: self._set(parameter, value),
    )


def parameterNodeWrapper(cls=None):
    """Class decorator: each annotated name becomes a parameter kept in the `vtkMRMLScriptedModuleNode`."""
    if cls is None:
        return parameterNodeWrapper
    hints = typing.get_type_hints(cls, include_extras=True)
    cls.allParameters = {
        name: Parameter(name, kind, getattr(cls, name, None)) for name, kind in hints.items()
    }
    reserved = {name for name in vars(_Wrapper) if not name.startswith("__")}
    if reserved & set(hints):
        raise ValueError(
            f"Cannot use reserved name {sorted(reserved & set(hints))[0]!r} in a parameterNodeWrapper"
        )
    for name, method in vars(_Wrapper).items():
        if name in reserved or name == "__init__":
            setattr(cls, name, method)
    for name, parameter in cls.allParameters.items():
        setattr(cls, name, _property_of(parameter))
    cls._is_parameter_node_wrapper = True
    return cls


def isParameterNodeWrapper(thing):
    """Whether the class or object went through the decorator."""
    return getattr(thing, "_is_parameter_node_wrapper", False)
