"""What PythonQt answers when a panel uses signals, timers and child processes, and that the host agrees.

The expected answers were recorded with PythonQt itself. Two idioms differ; they stand at the end. Modules
keep away from both: a slot takes no arguments or named ones.
"""

import functools
import queue
import sys
import threading

import pytest

from SlicerHost.facts import Facts, spin

FACTS = Facts()
answers = FACTS.answers
LONG = 5.0  # seconds that nothing here takes


class Listener:
    """Slots as methods, each noting what it was given."""

    def __init__(self):
        self.calls = []

    def plain(self):
        self.calls.append("plain")

    def observer_like(self, caller=None, event=None):
        self.calls.append((caller, event))


# Signals


@answers([1, False, False, "plain", (False, None)])
def slots_of_clicked(qt):
    calls, listener = [], Listener()
    button = qt.QPushButton()
    button.clicked.connect(lambda: calls.append(1))
    button.clicked.connect(lambda checked: calls.append(checked))
    button.clicked.connect(lambda value=5: calls.append(value))
    button.clicked.connect(listener.plain)
    button.clicked.connect(listener.observer_like)
    button.click()
    return calls + listener.calls


@answers([(False,), ()])
def connect_by_signature(qt):
    calls = []
    button = qt.QPushButton()
    button.connect("clicked(bool)", lambda *given: calls.append(given))
    button.connect("clicked()", lambda *given: calls.append(given))
    button.click()
    return calls


@answers([])
def disconnect_function_and_method(qt):
    listener = Listener()
    button = qt.QPushButton()
    for slot in (listener.plain, lambda: listener.calls.append("lambda")):
        button.clicked.connect(slot)
        button.clicked.disconnect(slot)
    button.connect("clicked()", listener.plain)
    button.disconnect("clicked()", listener.plain)
    button.click()
    return listener.calls


@answers(([(3,)], False, 4))
def block_signals(qt):
    calls = []
    spin_box = qt.QSpinBox()
    spin_box.valueChanged.connect(lambda *given: calls.append(given))
    spin_box.value = 3
    before = spin_box.blockSignals(True)
    spin_box.value = 4
    spin_box.blockSignals(before)
    return calls, before, spin_box.value


@answers([("index", 1), ("text", "b")])
def combo_box_signals(qt):
    calls = []
    combo = qt.QComboBox()
    combo.addItems(["a", "b"])
    combo.currentIndexChanged.connect(lambda *given: calls.append(("index", *given)))
    combo.currentTextChanged.connect(lambda *given: calls.append(("text", *given)))
    combo.currentIndex = 1
    return sorted(calls)


@answers({("state", 2), ("toggled", True), ("state", 0), ("toggled", False)})
def check_box_signals(qt):
    calls = set()
    box = qt.QCheckBox()
    box.toggled.connect(lambda on: calls.add(("toggled", on)))
    box.stateChanged.connect(lambda state: calls.add(("state", state)))
    box.checked = True
    box.setChecked(False)
    return calls


@answers(["q"])
def line_edit_signal(qt):
    calls = []
    line = qt.QLineEdit()
    line.textChanged.connect(lambda text: calls.append(text))
    line.text = "q"
    return calls


# Timers


@answers((True, False, False, 5))
def timer_repeats_until_stopped(qt):
    ticks = []
    timer = qt.QTimer()
    timer.interval = 5
    timer.timeout.connect(lambda: ticks.append(1))
    timer.start()
    spin(qt, LONG, until=lambda: len(ticks) > 2)
    timer.stop()
    return len(ticks) > 2, timer.active, timer.isActive(), timer.interval


@answers([1])
def timer_fires_once(qt):
    ticks = []
    timer = qt.QTimer()
    timer.setSingleShot(True)
    timer.timeout.connect(lambda: ticks.append(1))
    timer.start(5)
    spin(qt, 0.06)
    return ticks


@answers(7)
def timer_interval_by_setter(qt):
    timer = qt.QTimer()
    timer.setInterval(7)
    return timer.interval


@answers(["plain", "lambda"])
def single_shot(qt):
    listener = Listener()
    qt.QTimer.singleShot(0, listener.plain)
    qt.QTimer.singleShot(5, lambda: listener.calls.append("lambda"))
    spin(qt, LONG, until=lambda: len(listener.calls) == 2)
    return listener.calls


@answers([0, 1, 2])
def thread_queue_and_timer(qt):
    """How a panel hears of a child process: the thread fills a queue, the timer empties it."""
    waiting, heard = queue.Queue(), []
    timer = qt.QTimer()
    timer.setInterval(5)
    timer.timeout.connect(lambda: heard.append(waiting.get()) if not waiting.empty() else None)
    timer.start()
    thread = threading.Thread(target=lambda: [waiting.put(number) for number in range(3)])
    thread.start()
    spin(qt, LONG, until=lambda: len(heard) == 3)
    timer.stop()
    thread.join()
    return heard


# Child processes


@answers((["finished"], b"hello\n", 0))
def process_output(qt):
    calls = []
    process = qt.QProcess()
    process.finished.connect(lambda: calls.append("finished"))
    process.start(sys.executable, ["-c", "print('hello')"])
    process.waitForFinished(int(1000 * LONG))
    spin(qt, LONG, until=lambda: calls)
    return calls, process.readAllStandardOutput().data(), process.exitCode()


@answers(b"a\nb\n")
def process_output_while_it_runs(qt):
    heard = []
    process = qt.QProcess()
    process.readyReadStandardOutput.connect(lambda: heard.append(process.readAllStandardOutput().data()))
    process.start(sys.executable, ["-c", "import time; print('a', flush=True); time.sleep(.05); print('b')"])
    spin(qt, LONG, until=lambda: b"".join(heard) == b"a\nb\n")
    process.waitForFinished(int(1000 * LONG))
    return b"".join(heard)


@answers("1")
def process_environment(qt):
    process, environment = qt.QProcess(), qt.QProcessEnvironment.systemEnvironment()
    environment.insert("A", "1")
    process.setProcessEnvironment(environment)
    return process.processEnvironment().value("A")


@pytest.mark.parametrize(("idiom", "expected"), FACTS.table)
def test_events_arrive_as_with_pythonqt(running_host, idiom, expected):
    assert FACTS.answer(running_host.qt, idiom) == expected


# Where the host differs


def arguments_of_a_slot_that_takes_any(qt):
    calls = []
    button = qt.QPushButton()
    button.clicked.connect(lambda *given: calls.append(given))
    button.click()
    return calls


def arguments_of_a_partial(qt):
    calls = []
    button = qt.QPushButton()
    button.clicked.connect(functools.partial(lambda first, *given: calls.append(given), 1))
    button.click()
    return calls


@pytest.mark.parametrize(
    ("idiom", "with_pythonqt", "with_the_host"),
    [
        (arguments_of_a_slot_that_takes_any, [(False,)], [()]),
        (arguments_of_a_partial, [(False,)], [()]),
    ],
)
def test_known_differences(running_host, idiom, with_pythonqt, with_the_host):
    assert idiom(running_host.qt) == with_the_host != with_pythonqt
