"""Requests to stop, from signals and the time limit, as one flag that the training reads.

A signal handler only sets `Stop.reason`, because it may run between any two lines of Python. The training reads it
between steps and while it waits for data, agrees with the other ranks, saves and exits. Before the first step the
process may be in one long C call (an import, joining the process group, compiling), in which no Python handler runs:
there a thread that the signal wakes exits the process.

This module does not import torch, because a process installs its `Stop` before anything else.
"""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Self

PREEMPTED = 75  # exit code EX_TEMPFAIL of sysexits.h: stopped, and the same command resumes the run
SIGNALS = tuple(
    signal.Signals[name]
    for name in ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGINT", "SIGHUP", "SIGXCPU", "SIGPWR")
    if name in signal.Signals.__members__
)
"""Signals that ask a process to stop: by a user, a scheduler, a terminal that is closed (SIGHUP), a limit of CPU time
(SIGXCPU), a machine whose power ends (SIGPWR)."""
_CONTINUE = b"\0"  # no signal has this number


def find_stop_signals() -> list[signal.Signals]:
    """Return SIGNALS, without SIGHUP if it is ignored, as `nohup` leaves it."""
    return [each for each in SIGNALS if each != signal.SIGHUP or signal.getsignal(each) is not signal.SIG_IGN]


class StopRequested(Exception):  # noqa: N818 (not an error)
    """The run was asked to stop before its end."""

    exit_code = PREEMPTED


class Stop:
    """Whether this process was asked to stop, and why. `Stop.install()` handles signals; a bare `Stop()` never stops.

    Attributes:
        reason: None, the name of the first signal (`"SIGTERM"`), or `"run.time_limit_minutes"`.
        on_early_stop: called, in a thread, before a stop exits a process that has not begun its first step.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.on_early_stop: Callable[[], None] | None = None
        self._interrupted = False
        self._before: dict[signal.Signals, Any] = {}
        self._wakeup: tuple[socket.socket, socket.socket] | None = None
        self._thread: threading.Thread | None = None

    @classmethod
    def install(cls) -> Self:
        """Install the handlers and unblock the signals; only in the main thread."""
        stop = cls()
        reader, writer = stop._wakeup = socket.socketpair()
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        stop._thread = threading.Thread(target=stop._exit_on_signal, args=(reader,), name="stop", daemon=True)
        stop._thread.start()
        stop._before = {each: signal.signal(each, stop._handle) for each in find_stop_signals()}
        _installed.append(stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return stop

    @classmethod
    def listen(cls, minutes: float | None = None) -> Self:
        """Install handlers that never end the process, in one that does more than train; only in the main thread.

        Args:
            minutes: time limit from now on; None: none, and SIGALRM stays the caller's.
        """
        stop = cls()
        numbers = [each for each in find_stop_signals() if minutes is not None or each != signal.SIGALRM]
        stop._before = {each: signal.signal(each, stop._handle) for each in numbers}
        _installed.append(stop)
        if minutes is not None:
            signal.setitimer(signal.ITIMER_REAL, max(60 * minutes, 1e-3))
        return stop

    def set_time_limit(self, minutes: float) -> None:
        """Request a stop `minutes` after the start of the launcher, so that restarts in place share one limit."""
        left = 60 * minutes - _seconds_since_start()
        signal.setitimer(signal.ITIMER_REAL, max(left, 1e-3))  # 0 would mean never

    def begin_steps(self) -> None:
        """Mark the begin of the first step: from here on, a stop waits for the end of the step.

        If a signal has come before, the process exits here. All ranks have to call this together: a rank in its first
        step would wait for one that has exited. Only in the main thread.
        """
        if self._thread is None or self._wakeup is None:
            return
        reader, writer = self._wakeup
        writer.send(_CONTINUE)
        self._thread.join()
        signal.set_wakeup_fd(-1)
        reader.close()
        writer.close()
        self._thread = self._wakeup = None

    def close(self) -> None:
        """Restore the earlier handlers; may be called again."""
        if self._before:
            if signal.SIGALRM in self._before:
                signal.setitimer(signal.ITIMER_REAL, 0)
            self.begin_steps()
            self._restore_handlers()
            _installed.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _restore_handlers(self) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal without locks and Python streams: the interrupted code may hold them."""
        if number == signal.SIGINT and self._interrupted:
            signal.default_int_handler(number, frame)
        if number == signal.SIGINT:
            self._interrupted = True
            if self._thread is None:
                _print("interrupted: the run stops after this step and saves; a second Ctrl-C exits at once\n")
        self.reason = self.reason or _name_reason(number)

    def _exit_on_signal(self, reader: socket.socket) -> None:
        """The thread: exit the process at a stop signal, whose number Python writes into the socket."""
        while (received := reader.recv(1)) != _CONTINUE:
            if received and received[0] in SIGNALS:
                try:
                    reason = _name_reason(received[0])
                    _print(f"stopped by {reason} before the first step; the same command resumes the run\n")
                    if self.on_early_stop is not None:
                        self.on_early_stop()
                finally:
                    os._exit(PREEMPTED)


def _name_reason(number: int) -> str:
    return "run.time_limit_minutes" if number == signal.SIGALRM else signal.Signals(number).name


def _print(text: str) -> None:
    """Write to stderr on the first rank of each machine, past Python's buffers."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        with contextlib.suppress(OSError):
            os.write(2, text.encode())


def _seconds_since_start() -> float:
    """Seconds since the start of the launcher, or of this process if it has none.

    Without /proc, the CPU time of this process, which is a lower bound.
    """
    starter = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else os.getpid()
    try:
        fields = Path(f"/proc/{starter}/stat").read_text().rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # field 22: clock ticks after boot
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, AttributeError):
        return time.process_time()


_installed: list[Stop] = []


def _ignore_signals_in_fork() -> None:
    """Ignore the stop signals in a fork of a process with a `Stop`, such as one of a pool of the user's code.

    Schedulers and terminals signal all processes of a group, and the rank needs its children to finish the step. But
    SIGTERM ends them: a pool sends it to its processes, and waits for their end.
    """
    for stop in _installed:
        stop._before = {}
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL if each == signal.SIGTERM else signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
    _installed.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ignore_signals_in_fork)
