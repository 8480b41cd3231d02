"""Processes that are measured: how long they took, how much memory they held, and what else ran meanwhile."""

import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What a launcher or an earlier run may have left in this process's environment.
_NOT_PASSED_ON = ("RANK", "LOCAL_", "WORLD_SIZE", "MASTER_", "GROUP_", "ROLE_", "TORCHELASTIC_", "OMP_NUM_THREADS")
_BETWEEN_LOOKS = 0.1  # seconds
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Outcome:
    """What is known of a command that has ended."""

    started: float
    """Seconds since 1970."""
    seconds: float
    others: float
    """Share of one core that other processes have used meanwhile: 0.5 is half a core."""
    memory: int
    """Most resident bytes of all its processes together, shared pages counted for each."""
    largest: int
    """Most resident bytes of one of its processes."""
    output: str


class FailedError(Exception):
    """A measured process ended with something else than 0, or did not end in time, or did not say what it should."""

    def __init__(self, message: str, outcome: Outcome | None = None) -> None:
        super().__init__(message)
        self.outcome = outcome


def run(command: Sequence[str], env: Mapping[str, str] | None = None, timeout: float = 600.0) -> Outcome:
    """Run a command with the repository on its path and watch it.

    Raises:
        FailedError: with the end of what it printed.
    """
    own, busy, started = _own_seconds(), _busy_seconds(), time.time()
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(env), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    with _Watch(process.pid) as watch:
        output = _wait(process, timeout)
    seconds = time.time() - started
    others = max(0.0, (_busy_seconds() - busy) - (_own_seconds() - own)) / seconds
    outcome = Outcome(started, seconds, round(others, 3), watch.memory, watch.largest, output)
    if process.returncode != 0:
        raise FailedError(f"exit code {process.returncode}\n{output[-2000:]}", outcome)
    return outcome


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's variables without those of a launcher, with the repository first on Python's path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_PASSED_ON)}
    path = os.pathsep.join([str(ROOT), *filter(None, [kept.get("PYTHONPATH")])])
    return {**kept, "PYTHONPATH": path, **(more or {})}


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def others_now(seconds: float = 0.5) -> float:
    """Cores that are in use while this process waits."""
    before = _busy_seconds()
    time.sleep(seconds)
    return (_busy_seconds() - before) / seconds


def _wait(process: "subprocess.Popen[str]", timeout: float) -> str:
    try:
        return process.communicate(timeout=timeout)[0]
    except BaseException as error:
        for pid in sorted(family(process.pid), reverse=True):
            _kill(pid)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise FailedError(f"it ran over {timeout:.0f} s") from error
        raise


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class _Watch:
    """Looks at the memory of a process and its descendants from time to time; a context manager."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.memory = self.largest = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch")

    def __enter__(self) -> "_Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(_BETWEEN_LOOKS):
            sizes = [_resident(pid) for pid in family(self._pid)]
            self.memory = max(self.memory, sum(sizes))
            self.largest = max(self.largest, *sizes)


def family(pid: int) -> set[int]:
    """A process and all its descendants, as far as they can be seen."""
    found = {pid}
    with suppress(OSError):  # the process has ended
        for listed in list(Path(f"/proc/{pid}/task").glob("*/children")):
            with suppress(OSError):  # the thread has ended
                found.update(*(family(int(child)) for child in listed.read_text().split()))
    return found


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _busy_seconds() -> float:
    """Seconds that all cores together were not idle since the machine's start."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / _TICKS


def _own_seconds() -> float:
    """Seconds of processor time of this process and its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
