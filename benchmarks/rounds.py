"""Turns: every task once a round, so that what slows the machine slows all of them; medians, and ratios by round."""

import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, NamedTuple

from benchmarks.processes import FailedError, Outcome, others_now

DISTURBED = 0.1
"""Share of a core that other processes may use during a measurement that counts as quiet."""
MOST_FAILURES = 2
NO_TIME = "no time was left"
_PATIENCE = 40.0  # seconds that a task waits for a quiet machine


class Case(NamedTuple):
    """What a number is of."""

    measure: str
    workload: str
    ranks: int
    name: str
    """Who did the workload, and in which variant: `plain`, `ours bf16`."""
    unit: str


@dataclass(frozen=True)
class Reading:
    """One number, and what the machine did while it was measured."""

    value: float
    outcome: Outcome


@dataclass(frozen=True)
class Record:
    """A reading of a case in a round."""

    case: Case
    round: int
    value: float
    others: float
    memory: int
    largest: int

    @property
    def is_disturbed(self) -> bool:
        return self.others > DISTURBED

    def to_dict(self) -> dict[str, Any]:
        fields = asdict(self)
        return {**self.case._asdict(), **{name: fields[name] for name in fields if name != "case"}}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Record":
        case = Case(**{name: content[name] for name in Case._fields})
        return cls(case, **{name: value for name, value in content.items() if name not in Case._fields})


@dataclass(frozen=True)
class Task:
    """Something to measure once a round."""

    cases: tuple[Case, ...]
    measure: Callable[[], Sequence[Reading]]
    """A reading for each of the cases."""

    @classmethod
    def of(cls, case: Case, measure: Callable[[], Reading]) -> "Task":
        """A task that measures one case."""
        return cls((case,), lambda: [measure()])


@dataclass(frozen=True)
class Missing:
    """A case without a number, and why."""

    case: Case
    reason: str


class Turns(NamedTuple):
    """What a session has measured."""

    records: list[Record]
    missing: list[Missing]
    """The cases of which there is no number."""
    is_cut: bool
    """Whether Ctrl-C or the deadline ended it before its last round was over."""


def run_rounds(tasks: Sequence[Task], rounds: int, tries: int = 1, deadline: float | None = None) -> Turns:
    """Measure every task once a round; Ctrl-C ends it, and what was measured before counts.

    Args:
        tries: how often a task is measured in a round at most, where other processes disturb it; the least disturbed
            counts.
        deadline: of `time.monotonic`; what has not begun by then is left out.

    Returns:
        What was measured. A case that has failed twice is given up.
    """
    records: list[Record] = []
    reasons: dict[Case, list[str]] = {case: [] for task in tasks for case in task.cases}
    is_cut = True
    with suppress(KeyboardInterrupt):
        for number, task in product(range(rounds), tasks):
            if deadline is not None and time.monotonic() > deadline:
                break
            if len(reasons[task.cases[0]]) < MOST_FAILURES:
                try:
                    records += _measured(task, number, tries)
                except FailedError as error:
                    for case in task.cases:
                        reasons[case].append(str(error))
                    print(f"{_named(task.cases[0])}: failed: {error}", file=sys.stderr, flush=True)
        else:
            is_cut = False
    measured = {record.case for record in records}
    missing = [Missing(case, (*found, NO_TIME)[0]) for case, found in reasons.items() if case not in measured]
    return Turns(records, missing, is_cut)


def _measured(task: Task, number: int, tries: int) -> list[Record]:
    found: list[list[Record]] = []
    while len(found) < tries:
        if tries > 1:
            _wait_for_quiet()
        found.append([_record(case, number, each) for case, each in zip(task.cases, task.measure(), strict=True)])
        if not any(record.is_disturbed for record in found[-1]):
            break
    records = min(found, key=lambda records: max(record.others for record in records))
    for record in records:
        _tell(record)
    return records


def _record(case: Case, number: int, reading: Reading) -> Record:
    seen = reading.outcome
    return Record(case, number, reading.value, seen.others, seen.memory, seen.largest)


def _wait_for_quiet() -> None:
    deadline = time.monotonic() + _PATIENCE
    while others_now() > DISTURBED and time.monotonic() < deadline:
        pass


def _tell(record: Record) -> None:
    value = f"{record.value:,.0f}" if record.value >= 1000 else f"{record.value:.4g}"
    disturbed = f"  (others used {record.others:.2f} cores)" if record.is_disturbed else ""
    print(f"{record.round + 1}: {_named(record.case)}  {value} {record.case.unit}{disturbed}", flush=True)


def _named(case: Case) -> str:
    ranks = f"{case.ranks} rank{'s' if case.ranks > 1 else ''}"
    return "  ".join(part for part in (case.measure, case.workload, ranks, case.name) if part)


class Spread(NamedTuple):
    """Some numbers, in short."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Raises ValueError where there are none."""
        found = sorted(values)
        if not found:
            raise ValueError("no numbers")
        return cls(statistics.median(found), found[0], found[-1], len(found))


def records_of(records: Iterable[Record], case: Case) -> list[Record]:
    """The records of a case; undisturbed ones only, where there are any."""
    mine = [record for record in records if record.case == case]
    return [record for record in mine if not record.is_disturbed] or mine


def paired(records: Iterable[Record], one: Case, other: Case) -> list[tuple[float, float]]:
    """The values of two cases in the rounds that have both; of undisturbed pairs only, where there are any."""
    records = list(records)
    first = {record.round: record for record in records if record.case == one}
    second = {record.round: record for record in records if record.case == other}
    pairs = [(first[number], second[number]) for number in sorted(first.keys() & second.keys())]
    quiet = [pair for pair in pairs if not any(record.is_disturbed for record in pair)] or pairs
    return [(above.value, below.value) for above, below in quiet]


def ratio(records: Iterable[Record], above: Case, below: Case) -> Spread | None:
    """`above` divided by `below`, round by round; None where no round has both."""
    pairs = paired(records, above, below)
    return Spread.of(one / other for one, other in pairs) if pairs else None
