"""How many cores other programs use, and how long the threads of this process wait for a core.

A team of OpenMP threads is as slow as its slowest thread. Where another program holds a core, one thread of each team
waits for its turn and the others wait for it: measured on two cores with two other busy programs, a small network made
118 samples/s with two threads and 8,883 with one. No setting of how threads spin comes near that.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

_SHORTEST = 0.3  # seconds: the kernel counts in hundredths
_BUSY = ("user", "system", "irq", "softirq", "steal")
_FIELDS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


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
    """Let a new run use only the cores that others leave, by DIST_TRAIN_CORES; return what to say, if anything.

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
        f"other programs use {busy:.1f} of the {cores} cores: a new run gets threads for {left} (distributed.threads "
        "sets their number), because threads wait for each other; a run that has begun keeps its number"
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
