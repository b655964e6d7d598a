"""The child process itself: its pipes, the threads that read them, its environment and its end."""

import json
import logging
import os
import queue
import signal
import subprocess
import threading
from collections import deque

from .paths import regcore_folder

NO_WINDOW = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # Windows would flash a console
LINES_KEPT = 200  # of what the child says on standard error

log = logging.getLogger(__name__)


class Child:
    """The process itself, its pipes and the threads that read them."""

    def __init__(self, command: list[str]):
        """Raises OSError if the command can't be started."""
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=_environment(),
            start_new_session=os.name == "posix",  # a group of its own, which is ended as a whole
            creationflags=NO_WINDOW,
        )
        self._events: queue.Queue[str | None] = queue.Queue()
        self._errors: deque[str] = deque(maxlen=LINES_KEPT)
        self._unread: deque[str] = deque(maxlen=10 * LINES_KEPT)  # of the same lines
        self.fresh = True  # until it is asked a second time
        self._worker_id: int | None = None  # differs from process.pid where a launcher stands between
        for target in (self._read_events, self._read_errors):
            threading.Thread(target=target, daemon=True).start()

    def _read_events(self) -> None:
        for line in self.process.stdout:
            self._events.put(line)
        self._events.put(None)

    def _read_errors(self) -> None:
        for line in self.process.stderr:
            self._errors.append(line)
            self._unread.append(line)

    def alive(self) -> bool:
        return self.process.poll() is None

    def send(self, message: dict) -> None:
        """Raises OSError if the child is gone."""
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def next_event(self, wait: bool) -> dict | None:
        """The next event that came, None if there is none. `wait`: give the reading thread a moment."""
        while True:
            try:
                line = self._events.get(timeout=0.2) if wait else self._events.get_nowait()
            except queue.Empty:
                return None
            if line is None:
                return None
            try:
                event = json.loads(line)
            except ValueError:
                log.info("the computing process printed: %s", line.rstrip())
                continue
            if event.get("event") == "ready":
                self._worker_id = event["process"]
                continue
            return event

    def detach(self) -> None:
        """Say nothing more: the process ends once its standard input does."""
        try:
            self.process.stdin.close()
        except OSError as error:
            log.debug("what was still to be sent is lost: %s", error)

    def kill(self) -> None:
        """End the process and all that it started. PythonSlicer is a launcher: ending it alone is no use."""
        if os.name == "posix":
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError) as error:
                log.debug("the process group is gone already: %s", error)
        else:
            for process_id in {self.process.pid, self._worker_id or self.process.pid}:
                command = ["taskkill", "/F", "/T", "/PID", str(process_id)]
                subprocess.run(command, capture_output=True, creationflags=NO_WINDOW)
        self.detach()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired as error:
            log.error("the computing process can't be ended: %s", error)

    def exit_reason(self) -> str:
        """How the process ended, in a few words."""
        code = self.process.returncode
        if code is None or code >= 0:
            return f"exit code {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        if name == "SIGKILL":
            return f"ended from outside, {name}; often the computer ran out of memory"
        return f"ended by {name}"

    def printed(self) -> str:
        """The lines of its standard error that came since this was asked last."""
        return "".join(self._unread.popleft() for _ in range(len(self._unread)))

    def stderr_tail(self) -> str:
        """The last lines of its standard error."""
        return "".join(self._errors)


def _environment() -> dict[str, str]:
    """Our environment, with RegCore where Python looks, and nothing imported from the working directory.

    torch's threads sleep while they wait for each other unless the user's environment says otherwise: by
    default they spin, and on a computer that also does something else the work then takes many times longer.
    """
    others = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    places = [str(regcore_folder()), *(place for place in others if os.path.isabs(place))]
    sealed = {"PYTHONPATH": os.pathsep.join(places), "PYTHONSAFEPATH": "1"}
    return {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, **sealed}
