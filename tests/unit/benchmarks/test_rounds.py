"""Rounds, ratios by round, and their summaries."""

import time
from collections.abc import Callable, Iterator

import pytest

from benchmarks.processes import FailedError
from benchmarks.rounds import DISTURBED, Missing, Reading, Spread, Task, ratio, records_of, run_rounds
from tests.unit.benchmarks.records import ONE, OTHER, make_reading, make_record


def test_ratios_are_taken_by_round() -> None:
    records = [make_record(ONE, 0, 10), make_record(OTHER, 0, 5), make_record(ONE, 1, 90), make_record(OTHER, 1, 30)]
    assert ratio(records, ONE, OTHER) == Spread(2.5, 2.0, 3.0, 2)


def test_a_ratio_leaves_out_disturbed_rounds() -> None:
    records = [
        make_record(ONE, 0, 10),
        make_record(OTHER, 0, 5),
        make_record(ONE, 1, 90),
        make_record(OTHER, 1, 3, others=0.5),
    ]
    assert ratio(records, ONE, OTHER) == Spread(2.0, 2.0, 2.0, 1)


def test_a_ratio_takes_disturbed_rounds_if_there_are_no_others() -> None:
    records = [
        make_record(ONE, 0, 10, others=0.5),
        make_record(OTHER, 0, 5),
        make_record(ONE, 1, 30),
        make_record(OTHER, 1, 5, others=1),
    ]
    assert ratio(records, ONE, OTHER) == Spread(4.0, 2.0, 6.0, 2)


def test_there_is_no_ratio_without_a_common_round() -> None:
    assert ratio([make_record(ONE, 0, 10), make_record(OTHER, 1, 5)], ONE, OTHER) is None


def test_a_case_counts_its_undisturbed_rounds() -> None:
    records = [
        make_record(ONE, 0, 10, others=DISTURBED + 0.01),
        make_record(ONE, 1, 20, others=DISTURBED),
        make_record(OTHER, 0, 1),
    ]
    assert records_of(records, ONE) == [records[1]]
    assert records_of(records[:1], ONE) == records[:1]


def test_a_spread_needs_numbers() -> None:
    assert Spread.of([3, 1, 2, 10]) == Spread(2.5, 1, 10, 4)
    with pytest.raises(ValueError, match="no numbers"):
        Spread.of([])


def test_each_task_is_measured_once_a_round() -> None:
    order: list[str] = []

    def measured(name: str) -> Callable[[], Reading]:
        return lambda: order.append(name) or make_reading(float(len(order)))  # type: ignore[func-returns-value]

    tasks = [Task.of(ONE, measured("one")), Task.of(OTHER, measured("other"))]
    records, missing, is_cut = run_rounds(tasks, rounds=2)
    assert order == ["one", "other", "one", "other"]
    assert [(each.case, each.round, each.value) for each in records] == [
        (ONE, 0, 1), (OTHER, 0, 2), (ONE, 1, 3), (OTHER, 1, 4),
    ]  # fmt: skip
    assert (missing, is_cut) == ([], False)


def test_a_task_that_fails_is_missing_and_the_others_go_on() -> None:
    calls = []

    def fails() -> Reading:
        calls.append(1)
        raise FailedError("exit code 1")

    records, missing, is_cut = run_rounds([Task.of(ONE, fails), Task.of(OTHER, lambda: make_reading(1))], rounds=3)
    assert missing == [Missing(ONE, "exit code 1")]
    assert not is_cut
    assert len(calls) == 2
    assert [each.case for each in records] == [OTHER] * 3


def test_a_task_that_fails_once_is_tried_again() -> None:
    answers: Iterator[FailedError | Reading] = iter([FailedError("exit code -6"), make_reading(1), make_reading(2)])

    def sometimes() -> Reading:
        answer = next(answers)
        if isinstance(answer, FailedError):
            raise answer
        return answer

    records, missing, is_cut = run_rounds([Task.of(ONE, sometimes)], rounds=3)
    assert [(each.round, each.value) for each in records] == [(1, 1), (2, 2)]
    assert (missing, is_cut) == ([], False)


def test_one_run_may_give_several_readings() -> None:
    several = Task((ONE, OTHER), lambda: [make_reading(1), make_reading(2)])
    records, _, _ = run_rounds([several], rounds=2)
    assert [(each.case, each.round, each.value) for each in records] == [
        (ONE, 0, 1), (OTHER, 0, 2), (ONE, 1, 1), (OTHER, 1, 2),
    ]  # fmt: skip
    _, missing, _ = run_rounds([several], rounds=2, deadline=time.monotonic() - 1)
    assert [each.case for each in missing] == [ONE, OTHER]


def test_a_task_after_the_deadline_is_missing() -> None:
    records, missing, is_cut = run_rounds(
        [Task.of(ONE, lambda: make_reading(1))], rounds=2, deadline=time.monotonic() - 1
    )
    assert (records, missing, is_cut) == ([], [Missing(ONE, "no time was left")], True)


def test_an_interruption_keeps_what_was_measured() -> None:
    answers: Iterator[KeyboardInterrupt | Reading] = iter([make_reading(1), make_reading(2), KeyboardInterrupt()])

    def interrupted() -> Reading:
        answer = next(answers)
        if isinstance(answer, KeyboardInterrupt):
            raise answer
        return answer

    tasks = [Task.of(ONE, interrupted), Task.of(OTHER, lambda: make_reading(9))]
    records, missing, is_cut = run_rounds(tasks, rounds=3)
    assert [(each.case, each.value) for each in records] == [(ONE, 1), (OTHER, 9), (ONE, 2), (OTHER, 9)]
    assert (missing, is_cut) == ([], True)


def test_the_least_disturbed_try_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.rounds.others_now", lambda: 0.0)
    tries = iter([make_reading(1, 0.9), make_reading(2, 0.4), make_reading(3, 0.6), make_reading(4, 0.0)])
    records, _, _ = run_rounds([Task.of(ONE, lambda: next(tries))], rounds=1, tries=3)
    assert [each.value for each in records] == [2]
    records, _, _ = run_rounds([Task.of(ONE, lambda: next(tries))], rounds=1, tries=3)
    assert [each.value for each in records] == [4]
