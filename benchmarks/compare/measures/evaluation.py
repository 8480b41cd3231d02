"""Seconds of an evaluation of the 10,000 test images during a training.

Ours is the time between the line of a step and the line of the evaluation after it in `metrics.jsonl`.
"""

import statistics
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from benchmarks.compare.measures.throughput import OURS
from benchmarks.compare.session import Session, read_lines, train
from benchmarks.compare.workloads import Workload
from benchmarks.processes import FailedError, run
from benchmarks.rounds import Case, Reading, Task

WORKLOAD_NAMES = ("mnist", "tutorial")
STEPS = 5
"""Steps between two evaluations of ours."""
PASSES = 4
"""The first is not counted: it creates the kernels."""


def case(workload: str, name: str) -> Case:
    """The case of this measure."""
    return Case("evaluation", workload, 1, name, "s")


def tasks(session: Session, workloads: Sequence[Workload]) -> Iterator[Task]:
    """The plain loop and ours, in fp32 and with `precision: auto`, for the workloads of `WORKLOAD_NAMES`."""
    evaluated = WORKLOAD_NAMES[:1] if session.quick else WORKLOAD_NAMES
    for workload in (workload for workload in workloads if workload.name in evaluated):
        yield Task.of(case(workload.name, "plain"), partial(_plain, session, workload, "no"))
        if not session.quick:
            yield Task.of(case(workload.name, "plain bf16"), partial(_plain, session, workload, "bf16"))
        for name, settings in OURS.items():
            yield Task.of(case(workload.name, name), partial(measure_ours, session, workload, settings))


def _plain(session: Session, workload: Workload, autocast: str) -> Reading:
    readings = session.path("evaluations")
    asked = ["--steps", str(PASSES), "--device", session.device, "--autocast", autocast, "--readings", str(readings)]
    outcome = run([sys.executable, "-m", "benchmarks.compare.peers.evaluation", workload.name, *asked])
    return Reading(statistics.median(line["seconds"] for line in read_lines(readings)), outcome)


def measure_ours(
    session: Session, workload: Workload, settings: Sequence[str], launcher: Sequence[str] = ()
) -> Reading:
    """Seconds of an evaluation in our run, the median of all but the first; `launcher`: see `session.train`."""
    schedule = [
        f"data.limit_train={STEPS * workload.batch}", f"train.epochs={PASSES}", "eval.every_epochs=1",
        f"log.every_steps={STEPS}", "data.limit_test=10000",
        "checkpoint.every_steps=1000000", "checkpoint.keep_best=false",
    ]  # fmt: skip
    ours = train(session, workload, 1, *schedule, *settings, launcher=launcher)
    return Reading(statistics.median(durations(ours.readings("train"), ours.readings("eval"))[1:]), ours.outcome)


def durations(trained: Sequence[dict[str, Any]], evaluated: Sequence[dict[str, Any]]) -> list[float]:
    """Seconds from the line of each step to the line of the evaluation after it.

    Raises:
        FailedError: there are fewer than two, and the first is not counted.
    """
    ends = {line["step"]: line["time"] for line in trained}
    found = [line["time"] - ends[line["step"]] for line in evaluated if line["step"] in ends]
    if len(found) < 2:
        raise FailedError(f"{len(found)} evaluation(s) follow the line of a step; two are needed")
    return found
