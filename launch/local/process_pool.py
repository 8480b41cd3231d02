"""Run processes in parallel on this machine, and stop them together when this process is stopped."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from types import FrameType
from typing import Any, Self

from dist_train.system.process import die_with_parent
from dist_train.system.stop_signals import SIGNALS, find_stop_signals

POLL = 0.05  # seconds between two checks of the processes
TAIL = 4000  # bytes of output that are searched for the last lines


class LoggedProcess:
    """A process whose output goes to a temporary file."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], cores: Collection[int]) -> None:
        self.began = time.monotonic()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (`close` does)
        # Signals stay blocked until the process has installed its handlers.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self._process = subprocess.Popen(  # noqa: S603 (this Python, and what the user has given)
                command,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches only this process, which forwards it once
                preexec_fn=partial(_prepare_child, os.getpid(), cores),
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def is_over(self) -> bool:
        return self._process.poll() is not None

    def wait(self) -> int:
        """Wait for the end; return the exit code, or minus the number of the signal that killed it."""
        return self._process.wait()

    def stop(self) -> None:
        """Send SIGTERM, so that it saves and exits."""
        self._process.terminate()

    def kill(self) -> None:
        """Kill it with all processes of its session, and wait for its end."""
        if not self.is_over():
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def read_last_lines(self, most: int = 20) -> list[str]:
        """Return the last lines of its output, at most `most`."""
        self._output.seek(max(0, os.fstat(self._output.fileno()).st_size - TAIL))
        return self._output.read().decode(errors="replace").splitlines()[-most:]

    def close(self) -> None:
        self._output.close()


class ProcessPool:
    """A context in which processes run in parallel; those still running at its end are killed.

    A stop signal to this process is forwarded to them and sets `is_stopping`.
    """

    def __init__(self) -> None:
        self.is_stopping = False
        self._has_sent_stop = False
        self._is_interrupted = False
        self._is_interrupted_twice = False
        self._running: list[LoggedProcess] = []
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._before = {each: signal.signal(each, self._handle_signal) for each in find_stop_signals()}
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._running:
            each.kill()
            each.close()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def start(self, command: Sequence[str], environ: Mapping[str, str], cores: Collection[int] = ()) -> LoggedProcess:
        """Start a process, pinned to `cores` (default: all)."""
        running = LoggedProcess(command, environ, cores)
        self._running.append(running)
        return running

    def poll(self) -> list[LoggedProcess]:
        """Return the processes that have ended since the last call, after a short wait if there are none.

        The caller closes them.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed twice.
        """
        if self._is_interrupted_twice:
            raise KeyboardInterrupt
        if self.is_stopping and not self._has_sent_stop:
            self._stop()
        over = [each for each in self._running if each.is_over()]
        self._running = [each for each in self._running if each not in over]
        if not over:
            time.sleep(POLL)
        return over

    def _stop(self) -> None:
        self._has_sent_stop = True
        for each in self._running:
            each.stop()
        if self._running:
            print(
                "stopping: running trials save and exit; press Ctrl-C again to end them at once",
                file=sys.stderr,
                flush=True,
            )

    def _handle_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if number == signal.SIGINT:
            self._is_interrupted_twice, self._is_interrupted = self._is_interrupted, True
        self.is_stopping = True


def _prepare_child(parent: int, cores: Collection[int]) -> None:
    """Prepare a child process between fork and exec."""
    die_with_parent(parent)
    if cores:
        os.sched_setaffinity(0, cores)
