"""Measure tasks in rounds, each once a round, so that a slow machine slows all of them; medians and ratios by round."""

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
"""A reading is disturbed if other processes used more than this, in cores, meanwhile."""
MAX_FAILURES = 2
NO_TIME = "no time was left"
_QUIET_TIMEOUT = 40.0  # seconds that a task waits for a quiet machine


class Case(NamedTuple):
    """What a number was measured for."""

    measure: str
    workload: str
    ranks: int
    name: str
    """The program and its variant: `plain`, `ours auto`."""
    unit: str


@dataclass(frozen=True)
class Reading:
    """One number, and the command that it was measured in."""

    value: float
    outcome: Outcome


@dataclass(frozen=True)
class Record:
    """A reading of a case in a round, as it is kept in the results."""

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
    """What is measured once a round."""

    cases: tuple[Case, ...]
    measure: Callable[[], Sequence[Reading]]
    """Returns a reading for each of the cases."""

    @classmethod
    def of(cls, case: Case, measure: Callable[[], Reading]) -> "Task":
        """A task that measures one case."""
        return cls((case,), lambda: [measure()])


@dataclass(frozen=True)
class Missing:
    """A case without a number, and why."""

    case: Case
    reason: str


class RoundsResult(NamedTuple):
    """What has been measured in all rounds."""

    records: list[Record]
    missing: list[Missing]
    """The cases without a number."""
    is_cut: bool
    """Whether Ctrl-C or the deadline came before the end of the last round."""


def run_rounds(tasks: Sequence[Task], rounds: int, tries: int = 1, deadline: float | None = None) -> RoundsResult:
    """Measure every task once a round; Ctrl-C ends it and keeps what was measured.

    Args:
        tries: measure a disturbed task up to this often in a round, and keep the least disturbed reading.
        deadline: of `time.monotonic`; no task begins after it.

    Returns:
        The readings. A task that has failed twice is not tried again.
    """
    records: list[Record] = []
    reasons: dict[Case, list[str]] = {case: [] for task in tasks for case in task.cases}
    is_cut = True
    with suppress(KeyboardInterrupt):
        for number, task in product(range(rounds), tasks):
            if deadline is not None and time.monotonic() > deadline:
                break
            if len(reasons[task.cases[0]]) < MAX_FAILURES:
                try:
                    records += _measure(task, number, tries)
                except FailedError as error:
                    for case in task.cases:
                        reasons[case].append(str(error))
                    print(f"{_describe(task.cases[0])}: failed: {error}", file=sys.stderr, flush=True)
        else:
            is_cut = False
    measured = {record.case for record in records}
    missing = [Missing(case, (*found, NO_TIME)[0]) for case, found in reasons.items() if case not in measured]
    return RoundsResult(records, missing, is_cut)


def _measure(task: Task, number: int, tries: int) -> list[Record]:
    found: list[list[Record]] = []
    while len(found) < tries:
        if tries > 1:
            _wait_for_quiet()
        found.append([_record(case, number, each) for case, each in zip(task.cases, task.measure(), strict=True)])
        if not any(record.is_disturbed for record in found[-1]):
            break
    records = min(found, key=lambda records: max(record.others for record in records))
    for record in records:
        _print(record)
    return records


def _record(case: Case, number: int, reading: Reading) -> Record:
    seen = reading.outcome
    return Record(case, number, reading.value, seen.others, seen.memory, seen.largest)


def _wait_for_quiet() -> None:
    deadline = time.monotonic() + _QUIET_TIMEOUT
    while others_now() > DISTURBED and time.monotonic() < deadline:
        pass


def _print(record: Record) -> None:
    value = f"{record.value:,.0f}" if record.value >= 1000 else f"{record.value:.4g}"
    disturbed = f"  (others used {record.others:.2f} cores)" if record.is_disturbed else ""
    print(f"{record.round + 1}: {_describe(record.case)}  {value} {record.case.unit}{disturbed}", flush=True)


def _describe(case: Case) -> str:
    ranks = f"{case.ranks} rank{'s' if case.ranks > 1 else ''}"
    return "  ".join(part for part in (case.measure, case.workload, ranks, case.name) if part)


class Spread(NamedTuple):
    """Median, lowest and highest of some numbers."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """The summary of at least one number; raises ValueError if there is none."""
        found = sorted(values)
        if not found:
            raise ValueError("no numbers")
        return cls(statistics.median(found), found[0], found[-1], len(found))


def records_of(records: Iterable[Record], case: Case) -> list[Record]:
    """The undisturbed records of a case; all if every one was disturbed."""
    mine = [record for record in records if record.case == case]
    return [record for record in mine if not record.is_disturbed] or mine


def pair_values(records: Iterable[Record], one: Case, other: Case) -> list[tuple[float, float]]:
    """The values of two cases by round; undisturbed pairs, or all if every one was disturbed."""
    records = list(records)
    first = {record.round: record for record in records if record.case == one}
    second = {record.round: record for record in records if record.case == other}
    pairs = [(first[number], second[number]) for number in sorted(first.keys() & second.keys())]
    quiet = [pair for pair in pairs if not any(record.is_disturbed for record in pair)] or pairs
    return [(above.value, below.value) for above, below in quiet]


def ratio(records: Iterable[Record], above: Case, below: Case) -> Spread | None:
    """`above` divided by `below`, by round; None if no round has both."""
    pairs = pair_values(records, above, below)
    return Spread.of(one / other for one, other in pairs) if pairs else None
