"""What our loop adds to the bare step in its format and precision, on one process.

Of two runs right after each other, again and again: between two of a round that are minutes apart a machine may change
its speed by more than what is to be seen.
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
"""In each round. Of every second one the bare step comes first, so that a machine that slows favours nobody."""
SMALL = "small"
"""The workload whose step is so short that a share says little: what is added is told in microseconds."""


def case(workload: str, name: str) -> Case:
    """The case of this measure."""
    return Case(MEASURE, workload, 1, name, "us a step added" if workload == SMALL else "of the bare step")


def tasks(session: Session, workloads: Sequence[Workload]) -> Iterator[Task]:
    """Each workload in fp32 and as the hardware is made for, but small steps, which are fp32 anyway, once."""
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
    found = {who: measure() for who, measure in (reversed(runs) if bare_first else runs)}
    ours, bare = found["ours"], found["bare"]
    others = max(ours.outcome.others, bare.outcome.others)
    return Reading(compared(workload, ours.value, bare.value), replace(ours.outcome, others=others))


def compared(workload: Workload, ours: float, bare: float) -> float:
    """Our throughput and that of the bare step, in samples/s, as a ratio, or as microseconds a step."""
    if workload.name == SMALL:
        return 1e6 * workload.batch * (1 / ours - 1 / bare)
    return ours / bare
