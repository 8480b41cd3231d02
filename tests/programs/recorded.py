"""One rank that records itself and does nothing else, without torch, so that it starts at once.

    python tests/programs/recorded.py RUN RANK SIZE STALL_MINUTES ACTION

It prints a line when it has begun. ACTION: wait (as for peers in a collective), hold (the GIL), raise, or work, which
continues until it reads a line.
"""

import ctypes
import select
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from dist_train.diagnostics import watchdog
from dist_train.diagnostics.recorder import Recorder, open_recorder
from dist_train.system.exit import leave, run_guarded

FOR_EVER = 1000  # seconds
PEERS_AFTER = 0.5  # seconds, so that a test does not wait for 5


@dataclass(frozen=True)
class Rank:
    rank: int
    size: int


def main() -> None:
    run, rank, size, stall_minutes, action = sys.argv[1:]
    watchdog._PEERS_AFTER = PEERS_AFTER
    rank_id = Rank(int(rank), int(size))
    with open_recorder(Path(run), rank_id, 1, float(stall_minutes), "the command") as recorder:
        recorder.mark("forward" if action == "hold" else "backward", 7)
        print("begun", flush=True)
        act(action, recorder)


def act(action: str, recorder: Recorder) -> None:
    if action == "wait":
        time.sleep(FOR_EVER)
    if action == "hold":
        ctypes.PyDLL(None).sleep(FOR_EVER)
    if action == "raise":
        raise ValueError("bad thing")
    while not select.select([sys.stdin], [], [], 0.02)[0]:
        recorder.mark("backward", 7)


if __name__ == "__main__":
    leave(run_guarded(main))
