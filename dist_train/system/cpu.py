"""The cores of this machine."""

import os


def count_cores() -> int:
    """Return the number of cores that this process may use; `DIST_TRAIN_CORES` can lower it."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("DIST_TRAIN_CORES", "")
    return min(available, int(limit)) if limit.isdecimal() and int(limit) else available
