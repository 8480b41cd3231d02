"""Run a command and measure its time, its memory, and how busy other processes kept the machine."""

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
# Variables of a launcher or of an earlier run, which a measured command must not inherit. And the one that keeps Python
# from storing bytecode: each start would compile all sources, which an installed program never does.
_NOT_INHERITED = (
    *("RANK", "LOCAL_", "WORLD_SIZE", "MASTER_", "GROUP_", "ROLE_", "TORCHELASTIC_", "OMP_NUM_THREADS"),
    "PYTHONDONTWRITEBYTECODE",
)
_SAMPLE_SECONDS = 0.1
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Outcome:
    """The measurements of a command that has ended."""

    started: float
    """Unix time in seconds."""
    seconds: float
    others: float
    """CPU time of other processes during the command, in cores: 0.5 is half a core."""
    memory: int
    """Peak resident bytes of all its processes together; shared pages count once for each process."""
    largest: int
    """Peak resident bytes of a single process."""
    output: str


class FailedError(Exception):
    """A measured command failed, timed out, or did not write what it should."""

    def __init__(self, message: str, outcome: Outcome | None = None) -> None:
        super().__init__(message)
        self.outcome = outcome


def run(
    command: Sequence[str], env: Mapping[str, str] | None = None, timeout: float = 600.0, root: Path = ROOT
) -> Outcome:
    """Run a command to its end and measure it.

    Args:
        env: more environment variables.
        timeout: in seconds.
        root: the working directory, first on Python's path.

    Raises:
        FailedError: the exit code is not 0, or the time is up; with the end of the output.
    """
    own, busy, started = _own_seconds(), _busy_seconds(), time.time()
    process = subprocess.Popen(
        command, cwd=root, env=environment(env, root), stdin=subprocess.DEVNULL,
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


def environment(more: Mapping[str, str] | None = None, root: Path = ROOT) -> dict[str, str]:
    """This process's variables without those of a launcher, with `root` first on Python's path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
    path = os.pathsep.join([str(root), *filter(None, [kept.get("PYTHONPATH")])])
    return {**kept, "PYTHONPATH": path, **(more or {})}


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def others_now(seconds: float = 0.5) -> float:
    """Cores that other processes use now, measured over some seconds of waiting."""
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
            raise FailedError(f"timed out after {timeout:.0f} s") from error
        raise


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class _Watch:
    """Context manager that samples the memory of a process and its descendants."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.memory = self.largest = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="watch")

    def __enter__(self) -> "_Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(_SAMPLE_SECONDS):
            sizes = [_resident(pid) for pid in family(self._pid)]
            self.memory = max(self.memory, sum(sizes))
            self.largest = max(self.largest, *sizes)


def family(pid: int) -> set[int]:
    """Pids of a process and all its descendants that are still running."""
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
    """Seconds of CPU time of all processes since the machine started."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / _TICKS


def _own_seconds() -> float:
    """Seconds of CPU time of this process and its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
