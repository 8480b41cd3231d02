"""What each rank was doing when nothing went on: `diagnostics/stacks_rank_R.txt`.

A rank that can still run writes the Python stacks of its threads. Of one that can't, its peers write what /proc says.
"""

import faulthandler
import re
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from dist_train.diagnostics.heartbeat import Heartbeat

_ANSWER = "Stacks of rank"  # how a file begins whose rank could run Python
_THREAD = re.compile(r"^(?:Current thread|Thread) 0x.*$", re.MULTILINE)
_FRAME = re.compile(r'  File "(?P<file>.*)", line \d+ in ')
_PROC = ("wchan", "syscall", "stack")  # of /proc/PID; the last is for root only
_STATUS = ("State", "TracerPid", "VmRSS", "VmSwap", "Threads", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")


class StackFile:
    """The file of this rank's own stacks."""

    def __init__(self, directory: Path, beat: Heartbeat) -> None:
        """Raises OSError."""
        self._file: BinaryIO = _path(directory, beat.origin.rank).open("wb", buffering=0)
        self._name = beat.origin.name

    def dump(self) -> None:
        """Write the stacks of all threads."""
        faulthandler.cancel_dump_traceback_later()
        self._file.truncate(0)
        self._file.seek(0)
        self._file.write(f"{_ANSWER} {self._name}\n\n".encode())
        faulthandler.dump_traceback(self._file, all_threads=True)

    def dump_later(self, seconds: float) -> None:
        """Have the stacks written after a time, unless this is called again before.

        Where C code keeps Python's lock, no thread of Python runs, the watchdog neither. faulthandler's own thread
        needs no lock, so the stacks appear even then.
        """
        faulthandler.dump_traceback_later(seconds, file=self._file)

    def close(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._file.close()


def has_answered(directory: Path, rank: int) -> bool:
    """Whether a rank has written its stacks itself, and so can run Python."""
    with suppress(OSError):
        return _path(directory, rank).read_text(errors="replace").startswith(_ANSWER)
    return False


def write_process_state(directory: Path, beat: Heartbeat) -> None:
    """Add what the system says of a rank of this machine that cannot speak for itself."""
    proc = Path(f"/proc/{beat.origin.pid}")
    parts = [f"\nRank {beat.origin.name}, pid {beat.origin.pid}, cannot run Python; from /proc:\n"]
    with suppress(OSError):
        parts += [line for line in (proc / "status").read_text().splitlines() if line.startswith(_STATUS)]
    for name in _PROC:
        with suppress(OSError):
            parts.append(f"\n{name}:\n{(proc / name).read_text().rstrip()}")
    with suppress(OSError), _path(directory, beat.origin.rank).open("a", encoding="utf-8") as file:
        file.write("\n".join(parts) + "\n")


def frames_of_main(directory: Path, rank: int) -> list[str]:
    """The frames of a rank's main thread, innermost first, as faulthandler writes them; empty where there are none."""
    try:
        text = _path(directory, rank).read_text(errors="replace")
    except OSError:
        return []
    threads = _THREAD.split(text)  # the oldest thread comes last, and that is the main one
    if len(threads) < 2:
        return []
    return [line for line in threads[-1].splitlines() if _FRAME.match(line)]


def is_waiting(frames: list[str]) -> bool:
    """Whether the innermost frame is where a rank waits for its peers: in torch, or in their shared memory."""
    found = _FRAME.match(frames[0]) if frames else None
    return bool(
        found and ("/torch/" in found["file"] or found["file"].endswith("/dist_train/distributed/shared_memory.py"))
    )


def _path(directory: Path, rank: int) -> Path:
    return directory / f"stacks_rank_{rank}.txt"
