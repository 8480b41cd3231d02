"""Our loop and the bare step."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.compare.measures import loop, throughput
from benchmarks.compare.workloads import WORKLOADS
from benchmarks.processes import Outcome
from benchmarks.rounds import Reading
from tests.unit.benchmarks.records import make_session


def test_the_runs_of_a_pair_take_turns_in_coming_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    order: list[str] = []
    speeds = iter([10, 20, 100, 90])

    def measured(who: str, others: float, memory: int) -> Reading:
        order.append(who)
        return Reading(next(speeds), Outcome(0.0, 1.0, others, memory, memory, ""))

    monkeypatch.setattr(loop, "measure_ours", lambda *_: measured("ours", 0.0, 5))
    monkeypatch.setattr(loop, "measure_bare_step", lambda *_, **__: measured("bare", 0.5, 3))
    pairs = list(loop.tasks(replace(make_session(tmp_path), quick=False), [WORKLOADS["mnist"]]))
    assert [pair.cases for pair in pairs] == [
        (loop.case("mnist", name),) for name in throughput.OURS for _ in range(loop.PAIRS)
    ]
    found = [reading for pair in pairs[:2] for reading in pair.measure()]
    assert [each.value for each in found] == [0.5, 0.9]
    assert order == ["ours", "bare", "bare", "ours"]
    assert {(each.outcome.others, each.outcome.memory) for each in found} == {(0.5, 5)}
