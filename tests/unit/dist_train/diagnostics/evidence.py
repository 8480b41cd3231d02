"""What ranks leave behind, written by a test in their place."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dist_train.diagnostics.failure import Failure, Kind
from dist_train.diagnostics.heartbeat import Heartbeat, HeartbeatFile, Phase, RankProcess

GONE = 2**22 + 1  # no process has such a number


@dataclass(frozen=True)
class RankId:
    rank: int
    size: int


def beat(rank: int, size: int, phase: Phase = "backward", step: int = 3, **changes: Any) -> Heartbeat:
    """A beat of this very process, which lives, except for what is changed."""
    return Heartbeat(
        replace(RankProcess.current(RankId(rank, size), 1, "the command"), **changes), phase, step, time.time()
    )


def leave_beats(run: Path, *beats: Heartbeat) -> None:
    for each in beats:
        file = HeartbeatFile(run / "diagnostics", each.origin)
        file.mark(each.phase, each.step)
        file.close()


def leave_failure(
    run: Path, of: Heartbeat, kind: Kind, error: str = "ValueError: bad thing", earlier: float = 0
) -> None:
    replace(Failure.at(of, kind, error), time=time.time() - earlier).write(run / "diagnostics")


def leave_stacks(run: Path, rank: int, file: str) -> None:
    text = f'Thread 0x0f (most recent call first):\n  File "{file}", line 3 in wait\n  File "a.py", line 1 in main\n'
    (run / "diagnostics" / f"stacks_rank_{rank}.txt").write_text(f"Current thread 0x1f\n  File x\n\n{text}")
