"""What a process asks of the system for itself."""

import ctypes
import os
import signal
import sys

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
