"""How fast a run is and since when it makes no progress, from its metrics, heartbeats and settings."""

import time
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypedDict

from dist_train.diagnostics.heartbeat import read_heartbeats
from dist_train.run_dir import RunDir
from dist_train.system.read_file import check_types

Line = dict[str, Any]
MIN_IDLE, USUAL_STEPS = 10.0, 5  # a run is idle after so many seconds and so many of its usual steps


class _Types(TypedDict, total=False):
    """What the lines of `metrics.jsonl` hold."""

    kind: str
    split: str
    step: int
    epoch: int
    loss: float | None
    samples_per_second: float
    time: float


def read_newest(run: Path, kind: Literal["train", "eval"]) -> Iterator[Line]:
    """Yield the undamaged lines of a kind in `metrics.jsonl`, newest first; none if it can't be read."""
    from dist_train.monitoring.metrics import newest_lines

    try:
        for line in newest_lines(RunDir(run).metrics, kind):
            try:
                check_types(line, _Types)
            except ValueError:
                continue
            yield line
    except OSError:
        return


def find_idle_time(
    run: Path, updated: datetime | None, seconds_per_step: float, is_here: bool
) -> tuple[float, str] | None:
    """Return the seconds without progress and the phase of the last rank that made some; None if those are usual.

    Args:
        updated: the time of the status.
        seconds_per_step: the usual time of a step; 0 if it is unknown.
        is_here: whether the run trains on this machine. Elsewhere its heartbeats may be seen late, so that only the
            lines of metrics count, which come in intervals.
    """
    beats = list(read_heartbeats(RunDir(run).diagnostics).values())
    lines = [line["time"] for line in islice(read_newest(run, "train"), 2)]
    interval = 0.0 if is_here else 2 * (lines[0] - lines[-1]) if lines else 0.0
    times = [*lines, *(beat.time for beat in beats), updated.timestamp() if updated else 0.0]
    idle = time.time() - max(times)
    if idle <= max(MIN_IDLE, USUAL_STEPS * seconds_per_step) + interval:
        return None
    return idle, max(beats, key=lambda beat: beat.time).phase if beats else ""
