"""How much memory processes have."""

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
    """Written by this process, and its alone; pages of files that it has mapped and read are not in it."""
    share: int
    """With its share of the pages that several have."""


def samples_of(pids: Sequence[int]) -> list[Sample]:
    """The memory of those processes that are there, as Linux's `smaps_rollup` has it."""
    found = []
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
        except OSError:
            continue
        sizes = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in text.splitlines()[1:]}
        found.append(Sample(time.time(), sizes["Rss"], sizes["Private_Dirty"], sizes["Pss"]))
    return found
