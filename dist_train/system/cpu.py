"""The cores that this process may use, how many others use, and how long its threads wait for one.

A team of OpenMP threads is as slow as its slowest thread. Where another program holds a core, one thread of each team
waits for its turn and the others wait for it: measured on two cores with two other busy programs, a small network made
118 samples/s with two threads and 8,883 with one. No setting of how threads spin comes near that.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
_SHORTEST = 0.3  # seconds: the kernel counts in hundredths
_BUSY = ("user", "system", "irq", "softirq", "steal")
_FIELDS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


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


class LoadMeter:
    """Measures the cores of this process from its creation on."""

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        self._stat, self._cores = stat, os.sched_getaffinity(0)
        self._busy, self._own, self._at = self._read_busy(), _read_own(), time.monotonic()

    def count_busy_cores(self, processes: int = 1) -> float:
        """Return how many cores others use; 0 if that is not known. Programs of low priority (nice) do not count.

        Args:
            processes: how many processes have done the same work as this one, itself included.
        """
        seconds = time.monotonic() - self._at
        if seconds < _SHORTEST or self._busy == 0:
            return 0.0
        others = self._read_busy() - self._busy - processes * (_read_own() - self._own)
        return min(max(0.0, others / seconds), float(len(self._cores)))

    def _read_busy(self) -> float:
        """Seconds that the cores of this process have worked since boot; 0 without /proc."""
        ticks = 0
        with suppress(OSError, ValueError):
            for line in self._stat.read_text(encoding="ascii").splitlines():
                name, *counts = line.split()
                if name[:3] == "cpu" and name[3:].isdecimal() and int(name[3:]) in self._cores:
                    by_name = dict(zip(_FIELDS, map(int, counts), strict=False))
                    ticks += sum(by_name.get(field, 0) for field in _BUSY)
        return ticks / os.sysconf("SC_CLK_TCK")


def leave_busy_cores(meter: LoadMeter, processes: int = 1) -> str | None:
    """Let a new run use only the cores that others leave, by DIST_TRAIN_CORES; return a warning, or None.

    A scheduler that has set the variable has given the cores to this process alone.
    """
    if "DIST_TRAIN_CORES" in os.environ:
        return None
    cores, busy = len(os.sched_getaffinity(0)), meter.count_busy_cores(processes)
    if cores == 1 or round(busy) == 0:
        return None
    left = max(1, cores - round(busy))
    os.environ["DIST_TRAIN_CORES"] = str(left)
    return (
        f"other programs use {busy:.1f} of the {cores} cores: this run gets threads for {left} (distributed.threads "
        "sets their number), because threads wait for each other; it keeps that number when it is resumed"
    )


class WaitMeter:
    """Measures how long the threads of this process wait for a core."""

    def __init__(self, tasks: Path = Path("/proc/self/task")) -> None:
        self._tasks = tasks
        self._before = self._read()

    def share_waited(self) -> float:
        """Return the part of the time since the last call that runnable threads have waited; 0 if not known."""
        now, before = self._read(), self._before
        self._before = now
        ran, waited = now[0] - before[0], now[1] - before[1]
        return waited / (ran + waited) if ran + waited > 0 and waited > 0 else 0.0

    def _read(self) -> tuple[int, int]:
        """Nanoseconds on a core, and runnable without one."""
        ran = waited = 0
        for path in self._tasks.glob("*/schedstat"):
            with suppress(OSError, ValueError):
                words = path.read_text(encoding="ascii").split()
                ran, waited = ran + int(words[0]), waited + int(words[1])
        return ran, waited


def _read_own() -> float:
    """Seconds of CPU time of this process and of its children that have ended."""
    own = os.times()
    return own.user + own.system + own.children_user + own.children_system
