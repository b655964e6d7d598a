"""A table of recorded facts about Qt in Slicer: functions of the `qt` module, with PythonQt's answers."""

import time

import pytest


class Facts:
    """Collects `(function, expected)` pairs; `expected` is a value or the type of an exception."""

    def __init__(self):
        self.table = []

    def answers(self, expected):
        """Decorator: the function, called with the `qt` module, gives this with PythonQt."""

        def note(function):
            self.table.append(pytest.param(function, expected, id=function.__name__))
            return function

        return note

    @staticmethod
    def answer(qt, idiom):
        """What the host answers: the value, or the type of the exception."""
        try:
            return idiom(qt)
        except (AttributeError, TypeError, ValueError) as error:
            return type(error)


def spin(qt, seconds, until=lambda: False):
    """Run the event loop for that long, or until the condition holds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not until():
        qt.QCoreApplication.processEvents()
        time.sleep(0.001)
