"""A wish to stop that comes from outside: signals and the time limit, as one flag that the training reads.

The handler of a signal only notes it, because it may run between any two lines of Python: the training looks at
`Stop.reason` between steps, agrees on it with the other ranks, saves and ends. Two things can't wait for that. Before
the first step the process may be in one long call of C (importing, joining the group, compiling), in which no handler
of Python runs: a thread that the signal itself wakes then ends the process. And a wait for data may last for ever:
`Stop.waiting` lets the handler raise out of it.

No torch here: a process installs its `Stop` before anything else.
"""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: stopped, and the same command goes on
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGINT)
_GO_ON = b"\0"  # no signal has this number
_PAUSE = 0.02  # seconds in which a handler runs


class StopRequested(Exception):  # noqa: N818 (nothing went wrong)
    """A stop was asked for, and the training can't or must not go on to its end."""

    exit_code = PREEMPTED


class Stop:
    """Whether this process has been asked to stop, and by what; made by `Stop.install`, or by itself asked by nobody.

    `reason` is None, or the name of the first signal that came (`"SIGTERM"`), or `"run.time_limit_minutes"`.
    `on_early_stop` is called, in a thread, before a stop ends the process that has not begun its first step.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.on_early_stop: Callable[[], None] | None = None
        self._interrupted = False
        self._is_waiting = False
        self._before: dict[signal.Signals, Any] = {}
        self._wakeup: tuple[socket.socket, socket.socket] | None = None
        self._watch: threading.Thread | None = None
        self._has_begun = threading.Event()

    @classmethod
    def install(cls) -> Self:
        """Handle the signals from now on, those that are blocked included; only in the main thread."""
        stop = cls()
        reader, writer = stop._wakeup = socket.socketpair()
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        stop._watch = threading.Thread(
            target=stop._listen, args=(reader, threading.get_ident()), name="stop", daemon=True
        )
        stop._watch.start()
        stop._before = {each: signal.signal(each, stop._note) for each in SIGNALS}
        _installed.append(stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return stop

    def set_time_limit(self, minutes: float) -> None:
        """Ask to stop `minutes` after the launcher has started, so that starts anew in place share one limit."""
        left = 60 * minutes - _seconds_since_start()
        signal.setitimer(signal.ITIMER_REAL, max(left, 1e-3))  # 0 would mean never

    def begin_steps(self) -> None:
        """Say that the first step comes next; from here on a stop waits for the end of a step.

        A signal that came before ends the process here. Ranks have to call this together, or one that is in its
        first step waits for one that has left.
        """
        if self._wakeup is not None and not self._has_begun.is_set():
            self._wakeup[1].send(_GO_ON)
            self._has_begun.wait()

    def waiting(self) -> "_Waiting":
        """A region in which a stop raises `StopRequested`; at once if it was asked for before.

            with stop.waiting():
                batch = next(batches)

        Only in the main thread, and not around collectives: the other ranks would wait for this one.
        """
        return _Waiting(self)

    def close(self) -> None:
        """Leave the signals to whom they belonged before; may be called again."""
        if self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.begin_steps()
            self._end_watch()  # before the handlers: what it sends would find none
            self._restore()
            _installed.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end_watch(self) -> None:
        if self._watch is None or self._wakeup is None:
            return
        reader, writer = self._wakeup
        signal.set_wakeup_fd(-1)
        writer.send(_GO_ON)
        self._watch.join()
        reader.close()
        writer.close()
        self._watch = self._wakeup = None

    def _restore(self) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        """The handler. It takes no lock and touches no stream of Python's: the code it interrupts may hold them."""
        if number == signal.SIGINT and self._interrupted:
            signal.default_int_handler(number, frame)
        if number == signal.SIGINT:
            self._interrupted = True
            if self._has_begun.is_set():
                _say("interrupted: this step is finished and saved; once more ends at once\n")
        self.reason = self.reason or _name(number)
        if self._is_waiting:
            self._is_waiting = False
            raise StopRequested(self.reason)

    def _listen(self, reader: socket.socket, main: int) -> None:
        """What the thread does: sleep until a signal writes its number."""
        self._leave_early(reader)
        self._has_begun.set()
        while (came := reader.recv(1)) != _GO_ON:
            if came and came[0] in SIGNALS:
                self._wake(main)

    def _wake(self, main: int) -> None:
        """See to it that the main thread runs its handler, if it waits.

        Of two signals that come together another thread may take both from the system, and the main one, which alone
        runs handlers, would sleep on. What is sent to it by name, it takes itself.
        """
        while self._is_waiting:
            signal.pthread_kill(main, signal.SIGTERM)
            time.sleep(_PAUSE)

    def _leave_early(self, reader: socket.socket) -> None:
        """End the process at a signal that comes before the first step."""
        while (came := reader.recv(1)) != _GO_ON:
            if came and came[0] in SIGNALS:
                try:
                    _say(f"stopped by {_name(came[0])} before the first step; the same command starts again\n")
                    if self.on_early_stop is not None:
                        self.on_early_stop()
                finally:
                    os._exit(PREEMPTED)


class _Waiting:
    """The region of `Stop.waiting`."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop

    def __enter__(self) -> None:
        self._stop._is_waiting = True
        if self._stop.reason is not None:
            self._stop._is_waiting = False
            raise StopRequested(self._stop.reason)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._stop._is_waiting = False


def _name(number: int) -> str:
    return "run.time_limit_minutes" if number == signal.SIGALRM else signal.Signals(number).name


def _say(text: str) -> None:
    """Print on the first rank of each machine, past Python's buffers."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        with contextlib.suppress(OSError):
            os.write(2, text.encode())


def _seconds_since_start() -> float:
    """Seconds since the launcher of this rank has started, or since this process has where there is none.

    Where the system does not tell, the processor time of this process, which is no more than that.
    """
    starter = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else os.getpid()
    try:
        fields = Path(f"/proc/{starter}/stat").read_text().rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # the 22nd of all: clock ticks after boot
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, AttributeError):
        return time.process_time()


_installed: list[Stop] = []


def _leave_to_parent() -> None:
    """In a fork of a process with a `Stop`, such as a loader's worker: ignore what asks the whole group to stop.

    Schedulers and terminals signal every process there is. The rank needs its workers to finish the step, and ends
    them itself.
    """
    for stop in _installed:
        stop._before = {}
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
    _installed.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
