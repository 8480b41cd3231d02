"""Write the files that ranks leave in the directory of a run."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dist_train.diagnostics.failure import Failure, Kind
from dist_train.diagnostics.heartbeat import Heartbeat, HeartbeatFile, Phase, RankProcess
from dist_train.diagnostics.root_cause import RunEvidence, find_known_failure
from dist_train.diagnostics.verdict import Verdict, publish_verdict

NO_PID = 2**22 + 1  # no process has such a number


@dataclass(frozen=True)
class Rank:
    rank: int
    size: int


def heartbeat(rank: int, size: int, phase: Phase = "backward", step: int = 3, **changes: Any) -> Heartbeat:
    """A heartbeat of this process, which is alive; `changes` are those of its RankProcess."""
    process = RankProcess.current(Rank(rank, size), 1, "the command")
    return Heartbeat(replace(process, **changes), phase, step, time.time())


def write_heartbeats(run: Path, *heartbeats: Heartbeat) -> None:
    for each in heartbeats:
        file = HeartbeatFile(run / "diagnostics", each.process)
        file.mark(each.phase, each.step)
        file.close()


def write_failure(
    run: Path, of: Heartbeat, kind: Kind, error: str = "ValueError: bad thing", seconds_ago: float = 0
) -> Failure:
    failure = replace(Failure.from_heartbeat(of, kind, error), time=time.time() - seconds_ago)
    failure.write(run / "diagnostics")
    return failure


def write_stacks(run: Path, rank: int, file: str) -> None:
    text = f'Thread 0x0f (most recent call first):\n  File "{file}", line 3 in wait\n  File "a.py", line 1 in main\n'
    (run / "diagnostics" / f"stacks_rank_{rank}.txt").write_text(f"Current thread 0x1f\n  File x\n\n{text}")


def write_verdict(run: Path) -> Verdict:
    """A verdict on rank 0, which has raised an exception."""
    write_heartbeats(run, heartbeat(0, 1))
    write_failure(run, heartbeat(0, 1), "exception")
    verdict = find_known_failure(RunEvidence.read(run))
    assert verdict is not None
    assert publish_verdict(run, verdict)
    return verdict
