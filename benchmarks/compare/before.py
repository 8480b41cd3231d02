"""This version beside an earlier one: the same commands in both checkouts, in turns, and a table of the ratios."""

from collections.abc import Iterator, Sequence

from benchmarks.compare.measures import throughput
from benchmarks.compare.workloads import WORKLOADS
from benchmarks.rounds import Case, Record, Spread, Task, ratio
from benchmarks.tables import number, table

PREFIX = "before: "
MEASURES = ("start", "checkpoint", "restart", "data", "evaluation", throughput.MEASURE)
"""Measures that an earlier version takes part in, where a case of ours is a whole command."""
NOTE = (
    "Medians, and how many times as fast this version is: the median of the ratios of the rounds, lowest to highest. "
    "Both versions run the same commands, right after each other in each round."
)


def is_ours(task: Task) -> bool:
    """Whether a task measures whole commands of dist-train only, which an earlier version has too."""
    return all(case.measure in MEASURES and case.name.startswith("ours") for case in task.cases)


def case_before(case: Case) -> Case:
    """The case of the earlier version."""
    return case._replace(name=f"{PREFIX}{case.name}")


def pair_tasks(ours: Sequence[Task], before: Sequence[Task], only_ours: bool) -> Iterator[Task]:
    """Each of our tasks with that of the earlier version right after it; the peers' tasks stay where they are.

    Args:
        before: the same tasks in a session of the earlier version.
        only_ours: leave out all other tasks.
    """
    for task, other in zip(ours, before, strict=True):
        if is_ours(task):
            yield task
            yield Task(tuple(map(case_before, other.cases)), other.measure)
        elif not only_ours:
            yield task


def before_table(records: Sequence[Record]) -> str:
    """A row for each case that both versions have; empty without any."""
    cases = dict.fromkeys(record.case for record in records)
    pairs = [(case, case_before(case)) for case in cases if case_before(case) in cases]
    return table(("measure", "workload", "ranks", "variant", "this version", "before", "times as fast"),
                 [_cells(records, *pair) for pair in pairs]) if pairs else ""  # fmt: skip


def _cells(records: Sequence[Record], now: Case, before: Case) -> list[str]:
    is_rate = now.unit.endswith("/s")
    times = ratio(records, now, before) if is_rate else ratio(records, before, now)
    medians = [Spread.of(record.value for record in records if record.case == case).median for case in (now, before)]
    return [
        now.measure,
        WORKLOADS[now.workload].title if now.workload in WORKLOADS else now.workload,
        str(now.ranks),
        now.name,
        *(f"{number(median)} {now.unit}" for median in medians),
        f"{times.median:.2f} ({times.low:.2f} to {times.high:.2f}, n {times.n})" if times else "",
    ]
