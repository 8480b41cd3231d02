"""Processes: end with the parent, read the state of a process, signal the right one, pause garbage collection."""

import ctypes
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(parent: int | None = None) -> None:
    """Let the kernel kill this process when its parent ends, even by SIGKILL; does nothing outside Linux.

    Otherwise a rank whose launcher was killed would continue to train, and keep the run's lock and its GPU.

    Args:
        parent: pid of the expected parent, by default the current one. If it has already ended, this process exits
            with code 1.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid() if parent is None else parent
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)


def find_launcher() -> str | None:
    """Return a name that identifies the launcher of this rank; None without a launcher.

    Ranks that the same launcher restarts get the same name.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    stat = read_process_stat(os.getppid())
    return f"{os.environ['TORCHELASTIC_RUN_ID']} {socket.gethostname()} {os.getppid()} {stat[1] if stat else 0}"


def read_process_stat(pid: int) -> tuple[str, int] | None:
    """Return the state of a process, a letter of /proc, and its start in clock ticks after boot; None if unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[19])


def read_process_state(pid: int, started: int) -> str:
    """Return the state of a process, a letter of /proc; X if it is gone, a zombie, or another process has its pid now.

    Args:
        started: start of the process as `read_process_stat` returns it.
    """
    if not Path("/proc/self/stat").exists():  # not Linux
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return "X"
        return "S"
    stat = read_process_stat(pid)
    return "X" if stat is None or stat[1] != started or stat[0] == "Z" else stat[0]


def signal_process(pid: int, number: int, is_right_process: Callable[[], bool]) -> bool:
    """Send a signal to a process, if it is the right one; return whether it was sent.

    A file that names a process may be old, and the number may belong to another process now, also a moment after a
    check. The check is made here while the kernel keeps hold of the process.

    Args:
        is_right_process: whether the process with this number is the right one.

    Raises:
        PermissionError: it belongs to another user.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except (OSError, ValueError, OverflowError):  # it has ended, or no process has such a number
        return False
    try:
        if not is_right_process():
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Import modules without garbage collection; objects created meanwhile are never collected.

    Collection takes a sixth of the time of importing torch, and would write to pages that forks share.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
