"""Stack traces of ranks: without progress in `diagnostics/stacks_rank_R.txt`, of a crash in `crash_rank_R.txt`.

A rank that can run Python writes the stacks of its own threads. For one that can't, its peers write what /proc says.
"""

import faulthandler
import itertools
import multiprocessing
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dist_train.diagnostics.heartbeat import Heartbeat
from dist_train.system.process import signal_process
from dist_train.system.read_file import read_bytes

_TITLE = "Stacks of rank"  # the first words of a file that the rank has written itself
_WORKER = "Worker process"
_WORKER_SECONDS = 0.1  # that a worker has to write its stack
_WRITE_STACK = signal.SIGRTMIN + 4
_FATAL = "Fatal Python error: "  # the first words of what faulthandler writes of a crash
_THREAD = re.compile(r"^(?:Current thread|Thread) 0x.*$", re.MULTILINE)
_FRAME = re.compile(r'  File "(?P<file>.*)", line \d+ in ')
_FRAME_LINE = re.compile(r"^  File .* in .*$", re.MULTILINE)
_PROC_FILES = ("wchan", "syscall", "stack")  # of /proc/PID; only root may read the last
_STATUS_ROWS = ("State", "TracerPid", "VmRSS", "VmSwap", "Threads", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")
_WAITS_FOR_WORKERS = '/dist_train/data/loader.py"'
_READS = "/torch/utils/data/_utils/fetch.py"  # in the stack of a worker that reads samples
_SHARED_MEMORY = "/dist_train/distributed/shared_memory.py"


class StackFile:
    """The file with the stacks of this rank's threads."""

    def __init__(self, directory: Path, heartbeat: Heartbeat) -> None:
        """Raises OSError."""
        self._file: BinaryIO = _path(directory, heartbeat.process.rank).open("wb", buffering=0)
        self._name = heartbeat.process.name
        # Workers that load data are forked, and inherit this handler with the file.
        faulthandler.register(_WRITE_STACK, self._file, all_threads=False)

    def dump(self) -> None:
        """Write the stacks of all threads now."""
        faulthandler.cancel_dump_traceback_later()
        self._file.truncate(0)
        self._file.seek(0)
        self._file.write(f"{_TITLE} {self._name}\n\n".encode())
        workers = multiprocessing.active_children()
        for worker in workers:
            self._file.write(f"\n{_WORKER} {worker.pid}:\n".encode())
            with suppress(OSError):
                signal_process(worker.pid or -1, _WRITE_STACK, worker.is_alive)
            time.sleep(_WORKER_SECONDS)
        faulthandler.dump_traceback(self._file, all_threads=True)

    def dump_later(self, seconds: float) -> None:
        """Write the stacks after some seconds, unless this is called again before.

        While C code holds the GIL, no Python thread runs, the watchdog included. faulthandler's own thread needs no
        GIL, so it writes the stacks even then.
        """
        faulthandler.dump_traceback_later(seconds, file=self._file)

    def close(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        faulthandler.unregister(_WRITE_STACK)
        self._file.close()


@contextmanager
def record_crash(directory: Path, rank: int) -> Iterator[None]:
    """Let a crash in C code during the block leave the stacks of all threads in `crash_rank_R.txt`.

    The others read there why the rank is gone, and print it. Nothing changes if the file can't be written. After the
    block a crash is written to standard error, if it was before.
    """
    was_enabled = faulthandler.is_enabled()
    try:
        file = _crash_path(directory, rank).open("wb")
    except OSError:
        yield
        return
    with file:
        faulthandler.enable(file)
        try:
            yield
        finally:
            faulthandler.disable()
            if was_enabled:
                with suppress(OSError, ValueError):  # under a test it is no file
                    faulthandler.enable(sys.stderr.fileno())


@dataclass(frozen=True)
class Crash:
    """How C code has ended the process of a rank, as faulthandler has written it."""

    reason: str
    """Such as `Segmentation fault`."""
    frames: list[str]
    """Frames of the thread that crashed, innermost first; empty where it runs no Python."""

    @property
    def was_abort_outside_python(self) -> bool:
        """Whether a thread that runs no Python has aborted the process.

        NCCL's watchdog does so when the rank has waited too long for others, or they have closed the connection.
        """
        return self.reason == "Aborted" and not self.frames


def read_crash(directory: Path, rank: int) -> Crash | None:
    """Return how C code has ended the process of a rank, None if nothing says so."""
    try:
        text = read_bytes(_crash_path(directory, rank)).decode(errors="replace")
    except (OSError, ValueError):
        return None
    if not text.startswith(_FATAL):
        return None
    current = text.partition("Current thread 0x")[2]
    frames = itertools.takewhile(_FRAME.match, current.splitlines()[1:])
    return Crash(text.partition("\n")[0].removeprefix(_FATAL), list(frames))


def has_dumped_stacks(directory: Path, rank: int) -> bool:
    """Whether a rank has written its stacks itself, and so can run Python."""
    with suppress(OSError):
        return _read(directory, rank).startswith(_TITLE)
    return False


def write_process_state(directory: Path, heartbeat: Heartbeat) -> None:
    """Append what /proc says about a rank of this host that can't run Python."""
    process = heartbeat.process
    proc = Path(f"/proc/{process.pid}")
    parts = [f"\nRank {process.name}, pid {process.pid}, cannot run Python; from /proc:\n"]
    with suppress(OSError):
        parts += [line for line in (proc / "status").read_text().splitlines() if line.startswith(_STATUS_ROWS)]
    for name in _PROC_FILES:
        with suppress(OSError):
            parts.append(f"\n{name}:\n{(proc / name).read_text().rstrip()}")
    with suppress(OSError), _path(directory, process.rank).open("a", encoding="utf-8") as file:
        file.write("\n".join(parts) + "\n")


def read_main_frames(directory: Path, rank: int) -> list[str]:
    """Return the frames of a rank's main thread, innermost first, as faulthandler writes them; [] without a file.

    If that waits for workers that load data, they are those of a worker that reads a sample.
    """
    try:
        text = _read(directory, rank)
    except OSError:
        return []
    threads = _THREAD.split(text)  # the oldest thread comes last, which is the main one
    if len(threads) < 2:
        return []
    frames = [line for line in threads[-1].splitlines() if _FRAME.match(line)]
    if not any(_WAITS_FOR_WORKERS in frame and "_wait_for_workers" in frame for frame in frames):
        return frames
    workers = [_FRAME_LINE.findall(part) for part in threads[0].split(_WORKER)[1:]]
    return next((found for found in workers if any(_READS in frame for frame in found)), frames)


def is_waiting_for_peers(frames: list[str]) -> bool:
    """Whether the innermost frame is in torch or in `distributed.shared_memory`, where ranks wait for each other."""
    frame = _FRAME.match(frames[0]) if frames else None
    return frame is not None and ("/torch/" in frame["file"] or frame["file"].endswith(_SHARED_MEMORY))


def _read(directory: Path, rank: int) -> str:
    return read_bytes(_path(directory, rank)).decode(errors="replace")


def _crash_path(directory: Path, rank: int) -> Path:
    return directory / f"crash_rank_{rank}.txt"


def _path(directory: Path, rank: int) -> Path:
    return directory / f"stacks_rank_{rank}.txt"
