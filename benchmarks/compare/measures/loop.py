"""What our loop adds to the bare step in the same format and precision, on one rank.

Each reading compares two runs right after each other: between two runs of a round, which may be minutes apart, the
machine's speed may change by more than the difference.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from benchmarks.compare.measures.throughput import OURS, measure_bare_step, measure_ours
from benchmarks.compare.session import Session
from benchmarks.compare.workloads import Workload
from benchmarks.rounds import Case, Reading, Task

MEASURE = "loop"
PAIRS = 4
"""Pairs in each round. The bare step comes first in every second one, so that a drift of the machine cancels out."""
SMALL = "small"
"""The workload with such short steps that the difference is given in microseconds, not as a ratio."""


def case(workload: str, name: str) -> Case:
    """The case of this measure."""
    return Case(MEASURE, workload, 1, name, "us a step added" if workload == SMALL else "of the bare step")


def tasks(session: Session, workloads: Sequence[Workload]) -> Iterator[Task]:
    """Each workload in fp32 and with `precision: auto`, which is fp32 for small steps."""
    for workload in () if session.quick else workloads:
        for name, settings in OURS.items():
            if workload.name != SMALL or name == "ours":
                for number in range(PAIRS):
                    pair = partial(_pair, session, workload, name, settings, bare_first=number % 2 == 1)
                    yield Task.of(case(workload.name, name), pair)


def _pair(session: Session, workload: Workload, name: str, settings: Sequence[str], *, bare_first: bool) -> Reading:
    runs = [
        ("ours", partial(measure_ours, session, workload, 1, name, settings)),
        ("bare", partial(measure_bare_step, session, workload, 1, as_=name)),
    ]
    found = {program: measure() for program, measure in (reversed(runs) if bare_first else runs)}
    ours, bare = found["ours"], found["bare"]
    others = max(ours.outcome.others, bare.outcome.others)
    return Reading(compare(workload, ours.value, bare.value), replace(ours.outcome, others=others))


def compare(workload: Workload, ours: float, bare: float) -> float:
    """Our throughput over that of the bare step, both in samples/s; for small steps the microseconds added a step."""
    if workload.name == SMALL:
        return 1e6 * workload.batch * (1 / ours - 1 / bare)
    return ours / bare
