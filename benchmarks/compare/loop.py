"""What our loop adds to the bare step in its format and precision, on one process.

Of two runs right after each other, again and again: between two of a round that are minutes apart a machine may change
its speed by more than what is to be seen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from benchmarks.compare.session import Session
from benchmarks.compare.throughput import OURS, measure_limit, measure_ours
from benchmarks.compare.works import Work
from benchmarks.rounds import Case, Reading, Task

MEASURE = "loop"
PAIRS = 4
"""In each round. Of every second one the bare step comes first, so that a machine that slows favours nobody."""
SMALL = "small"
"""The work whose step is so short that a share says little: what is added is told in microseconds."""


def case(work: str, name: str) -> Case:
    """The case of this measure."""
    return Case(MEASURE, work, 1, name, "us a step added" if work == SMALL else "of the bare step")


def tasks(session: Session, works: Sequence[Work]) -> Iterator[Task]:
    """Each work in fp32 and as the hardware is made for, but small steps, which are fp32 anyway, once."""
    for work in () if session.quick else works:
        for name, settings in OURS.items():
            if work.name != SMALL or name == "ours":
                for number in range(PAIRS):
                    pair = partial(_pair, session, work, name, settings, bare_first=number % 2 == 1)
                    yield Task.of(case(work.name, name), pair)


def _pair(session: Session, work: Work, name: str, settings: Sequence[str], *, bare_first: bool) -> Reading:
    runs = [
        ("ours", partial(measure_ours, session, work, 1, name, settings)),
        ("bare", partial(measure_limit, session, work, 1, as_=name)),
    ]
    found = {who: measure() for who, measure in (reversed(runs) if bare_first else runs)}
    ours, bare = found["ours"], found["bare"]
    others = max(ours.outcome.others, bare.outcome.others)
    return Reading(compared(work, ours.value, bare.value), replace(ours.outcome, others=others))


def compared(work: Work, ours: float, bare: float) -> float:
    """Our throughput and that of the bare step, in samples/s, as a ratio, or as microseconds a step."""
    if work.name == SMALL:
        return 1e6 * work.batch * (1 / ours - 1 / bare)
    return ours / bare
