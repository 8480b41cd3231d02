"""How long a step waits for a checkpoint of ResNet-18 with its momentum, and how long a resume takes.

Both are read from `metrics.jsonl`, here with a line a step. `samples_per_second` leaves out a save and `time` does not:
the difference is the wait.
"""

import statistics
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.compare.measures.start import first_step
from benchmarks.compare.session import Session, read_lines, train
from benchmarks.compare.workloads import RESNET as WORKLOAD
from benchmarks.processes import FailedError, run
from benchmarks.rounds import Case, Reading, Task

BATCH = 8
"""Small steps, in which the wait is easy to see."""
EVERY = 12
"""Steps between two checkpoints; by then the one before is on disk."""
OURS = ("ours", "ours, the first")
"""The first save allocates the memory of the copy. `programs.copies` leaves out its first turn too."""
COPIES = {"copy into memory that is there": "copy", "clone": "clone", "torch.save and fsync": "save"}
"""What a plain program does with the same tensors, and its name in `programs.copies`."""
COLD_START, RESUME = "ours, cold start", "ours, resume"
SETTINGS = (f"data.global_batch={BATCH}", "log.every_steps=1", "train.precision=fp32", "checkpoint.keep_best=false")


def wait_case(name: str) -> Case:
    """The case of the wait."""
    return Case("checkpoint", WORKLOAD.name, 1, name, "ms")


def restart_case(name: str) -> Case:
    """The case of a start."""
    return Case("restart", WORKLOAD.name, 1, name, "s")


def wait_tasks(session: Session) -> Iterator[Task]:
    """Ours, and what a plain program needs for the same tensors."""
    yield Task(tuple(wait_case(name) for name in OURS), partial(measure_waits, session))
    yield Task(tuple(wait_case(name) for name in COPIES), partial(_copies, session))


def restart_tasks(session: Session) -> Iterator[Task]:
    """A start at step 0, and one that resumes from the checkpoint of the first."""
    runs: list[Path] = []
    yield Task.of(restart_case(COLD_START), partial(_cold_start, session, runs))
    yield Task.of(restart_case(RESUME), partial(_resume, session, runs))


def measure_waits(session: Session, *settings: str) -> list[Reading]:
    """Milliseconds that a step waits for a checkpoint: the median of all but the first, and the first."""
    steps = EVERY * (3 if session.quick else 6) + 1
    schedule = (f"train.max_steps={steps}", f"checkpoint.every_steps={EVERY}")
    ours = train(session, WORKLOAD, 1, *SETTINGS, *schedule, *settings)
    first, *later = waits(ours.readings(), BATCH, EVERY)
    return [Reading(1000 * seconds, ours.outcome) for seconds in (statistics.median(later), first)]


def waits(lines: Sequence[dict[str, Any]], batch: int, every: int) -> list[float]:
    """Seconds without training between each saved step and the next.

    Raises:
        FailedError: fewer than two steps were saved before the last.
    """
    pairs = [(one, other) for one, other in pairwise(lines) if one["step"] % every == 0]
    if len(pairs) < 2:
        raise FailedError("fewer than two steps were saved before the last")
    return [other["time"] - one["time"] - batch / other["samples_per_second"] for one, other in pairs]


def _copies(session: Session) -> list[Reading]:
    answer = session.path("copies")
    outcome = run([sys.executable, "-m", "benchmarks.compare.programs.copies", str(answer), str(session.directory)])
    turns = read_lines(answer)
    return [Reading(1000 * statistics.median(turn[key] for turn in turns), outcome) for key in COPIES.values()]


def _cold_start(session: Session, runs: list[Path]) -> Reading:
    runs.append(session.path("restarted"))
    return first_step(train(session, WORKLOAD, 1, *SETTINGS, "train.max_steps=1", directory=runs[-1]))


def _resume(session: Session, runs: list[Path]) -> Reading:
    if not runs:
        raise FailedError("there was no cold start to resume from")
    return first_step(train(session, WORKLOAD, 1, *SETTINGS, "train.max_steps=2", directory=runs[-1]), step=2)
