"""Memory of processes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sample:
    """The memory of one process at one time, in bytes."""

    time: float
    resident: int
    private: int
    """Pages that only this process has, and has written; mapped files that it only reads are not counted."""
    share: int
    """Proportional set size: pages that several processes share count in parts."""


def samples_of(pids: Sequence[int]) -> list[Sample]:
    """The memory of the processes that are still running, from Linux's `smaps_rollup`."""
    found = []
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
        except OSError:
            continue
        sizes = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in text.splitlines()[1:]}
        found.append(Sample(time.time(), sizes["Rss"], sizes["Private_Dirty"], sizes["Pss"]))
    return found
