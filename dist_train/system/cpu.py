"""The cores of this machine that this process may use."""

import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def count_cores() -> int:
    """Return the number of cores that this process may use, at least 1; `DIST_TRAIN_CORES` can lower it.

    The affinity counts, and the quota of CPU time that a container has: with half a core, two threads would only stop
    each other.
    """
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = read_cpu_quota(CGROUPS, OWN_CGROUPS)
    if quota is not None:
        available = max(1, min(available, int(quota)))
    limit = os.environ.get("DIST_TRAIN_CORES", "")
    return min(available, int(limit[:9])) if limit.isdecimal() and limit.strip("0") else available


def read_cpu_quota(root: Path, own: Path) -> float | None:
    """Return the lowest quota, in cores, of this process's control groups and all above; None without one.

    Args:
        root: where the control groups are mounted.
        own: file that names those of this process.
    """
    try:
        lines = own.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        _, controllers, name = (*line.split(":", 2), "", "")[:3]
        if controllers == "":
            quotas += [_read_v2(folder) for folder in _folder_and_parents(root, name)]
        elif "cpu" in controllers.split(","):
            for mount in (root / controllers, root / "cpu"):
                quotas += [_read_v1(folder) for folder in _folder_and_parents(mount, name)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _folder_and_parents(mount: Path, name: str) -> list[Path]:
    """A control group and those above; in a container its own is often mounted as the root, under another name."""
    parts = [part for part in Path(name).parts if part not in ("/", "..")]
    return [mount.joinpath(*parts[:count]) for count in range(len(parts), -1, -1)]


def _read_v2(folder: Path) -> float | None:
    """`cpu.max` holds the quota and the period in microseconds; a quota of `max` is none."""
    return _divide(*(*_read_words(folder / "cpu.max"), "", "")[:2])


def _read_v1(folder: Path) -> float | None:
    quota, period = _read_words(folder / "cpu.cfs_quota_us"), _read_words(folder / "cpu.cfs_period_us")
    return _divide(quota[0], period[0]) if quota and period else None


def _divide(quota: str, period: str) -> float | None:
    is_number = quota.isdecimal() and period.isdecimal() and int(period)
    return int(quota) / int(period) if is_number else None


def _read_words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return []
