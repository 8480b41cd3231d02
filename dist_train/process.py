"""What binds one process to another."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>


def die_with_parent(parent: int) -> None:
    """End this process as soon as its parent does, however that ends; at once if the process `parent` has gone.

    On Linux the system sees to it. Elsewhere only a parent that has gone by now is noticed.
    """
    _end_without(parent)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _end_without(parent)  # it may have gone between the two


def _end_without(parent: int) -> None:
    if os.getppid() != parent:
        sys.exit(1)
