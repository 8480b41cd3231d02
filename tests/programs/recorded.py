"""One rank that records itself and does nothing else; no torch, so that it starts at once.

    python tests/programs/recorded.py RUN RANK SIZE STALL_MINUTES DEED

It prints a line when it has begun. DEED: wait (for peers, as in a collective), hold (Python's lock), raise, or work,
which goes on until a line comes in.
"""

import ctypes
import select
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from dist_train.diagnostics.recorder import Recorder, open_recorder
from dist_train.system.exit import leave, run_guarded

_FOR_EVER = 1000  # seconds


@dataclass(frozen=True)
class RankId:
    rank: int
    size: int


def main() -> None:
    run, rank, size, stall_minutes, deed = sys.argv[1:]
    place = RankId(int(rank), int(size))
    with open_recorder(Path(run), place, 1, float(stall_minutes), "the command") as recorder:
        recorder.mark("forward" if deed == "hold" else "backward", 7)
        print("begun", flush=True)
        _do(deed, recorder)


def _do(deed: str, recorder: Recorder) -> None:
    if deed == "wait":
        time.sleep(_FOR_EVER)
    if deed == "hold":
        ctypes.PyDLL(None).sleep(_FOR_EVER)
    if deed == "raise":
        raise ValueError("bad thing")
    while not select.select([sys.stdin], [], [], 0.02)[0]:
        recorder.mark("backward", 7)


if __name__ == "__main__":
    leave(run_guarded(main))
