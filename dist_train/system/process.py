"""What a process asks of the system for itself."""

import ctypes
import gc
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(parent: int | None = None) -> None:
    """Let the system kill this process when its parent ends, however that ends; only Linux can.

    A rank whose launcher was killed would train on, unseen, and hold the run's lock and its GPU.

    Args:
        parent: the process that has to be the parent, by default the one that is now. If it has ended already, this
            process ends here.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid() if parent is None else parent
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)


def launcher() -> str | None:
    """The launcher that has started this rank, under a name of its own; None where there is none.

    Ranks that it starts anew in place find the same name.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    stat = state_and_start(os.getppid())
    return f"{os.environ['TORCHELASTIC_RUN_ID']} {socket.gethostname()} {os.getppid()} {stat[1] if stat else 0}"


def state_and_start(pid: int) -> tuple[str, int] | None:
    """State of a process, a letter of /proc, and its start in clock ticks after boot; None where /proc has it not."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[19])


def process_state(pid: int, started: int) -> str:
    """Return the state of a process, a letter of /proc; X if it is gone, a zombie, or another process has its pid now.

    Args:
        started: start of the process as `state_and_start` returns it.
    """
    if not Path("/proc/self/stat").exists():  # not Linux
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return "X"
        return "S"
    stat = state_and_start(pid)
    return "X" if stat is None or stat[1] != started or stat[0] == "Z" else stat[0]


@contextmanager
def importing() -> Iterator[None]:
    """Around imports that stay: nothing is searched for garbage meanwhile, and what they have made never is.

    The searches take a sixth of the import of torch; and what they would write to, forks share.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
