"""Targets and the best peer."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.compare.measures import checkpoints, evaluation, loading, loop, start, throughput
from benchmarks.compare.results import check_targets
from benchmarks.compare.targets import Target, all_targets, best_peer
from benchmarks.compare.workloads import WORKLOADS
from benchmarks.rounds import Spread
from tests.unit.benchmarks.records import make_record, make_session, make_throughputs


def test_the_best_peer_has_the_highest_median() -> None:
    records = make_throughputs(plain=30, accelerate=40, lightning=20, lightning_defaults=90, plain_bf16=99, ours=80)
    assert best_peer(records, "mnist", 1) == throughput.case("mnist", 1, "accelerate")
    assert best_peer(records, "mnist", 2) is None


def find_target(text: str) -> Target:
    return next(each for each in all_targets() if each.text.startswith(text))


def test_ours_is_compared_with_the_best_peer() -> None:
    target = find_target("MNIST example net, batch 64, 1 rank: ours auto / best peer")
    measured = target.measure(make_throughputs(plain=30, accelerate=40, ours=80, ours_auto=128))
    assert measured == Spread(3.2, 3.2, 3.2, 1)
    assert target.is_reached_by(3.2)
    assert not target.is_reached_by(3.19)


def test_small_steps_are_compared_in_microseconds() -> None:
    target = find_target("CIFAR tutorial net, batch 4, 1 rank: microseconds")
    added = loop.compare(WORKLOADS["small"], 4000, 4200)
    assert added == pytest.approx(1e6 * (4 / 4000 - 4 / 4200))
    measured = target.measure([replace(each, case=loop.case("small", "ours")) for each in make_throughputs(ours=added)])
    assert measured is not None
    assert measured.median == added
    assert target.is_reached_by(60.0)
    assert not target.is_reached_by(60.1)


def test_the_bare_step_is_compared_with_the_run_right_after_it() -> None:
    target = find_target("MNIST example net, batch 64, 1 rank: ours / bare step")
    far = make_throughputs(ours=90, bare_step_as_ours=100)
    near = [make_record(loop.case("mnist", "ours"), 0, share) for share in (0.97, 0.98, 1.0)]
    assert target.measure(far) is None
    assert target.measure(far + near) == Spread(0.98, 0.97, 1.0, 3)


def test_each_target_has_its_own_text() -> None:
    texts = [target.text for target in all_targets()]
    assert len(texts) == len(set(texts)) > 30


def test_a_target_of_disturbed_rounds_only_is_marked() -> None:
    text = "MNIST example net, batch 64, 1 rank: ours / best peer"
    quiet = make_throughputs(plain=30, ours=80)
    loud = [replace(each, others=1.0) for each in quiet]
    found = [next(each for each in check_targets(records) if each["text"] == text) for records in (quiet, loud)]
    assert [(each["reached"], each["disturbed"]) for each in found] == [(True, False), (True, True)]


def test_a_target_without_measurement_is_not_reached() -> None:
    found = check_targets([])
    assert all(each["measured"] is None and each["reached"] is None for each in found)


def test_every_case_of_a_target_is_measured(tmp_path: Path) -> None:
    """A target of a case that no task measures would stay empty."""
    full = replace(make_session(tmp_path), quick=False)
    workloads = list(WORKLOADS.values())
    tasks = [
        *throughput.tasks(full, workloads, [1, 2]), *loop.tasks(full, workloads), *start.tasks(full),
        *evaluation.tasks(full, workloads), *loading.tasks(full), *checkpoints.wait_tasks(full),
        *checkpoints.restart_tasks(full),
    ]  # fmt: skip
    records = [make_record(case, 0, 1.0) for task in tasks for case in task.cases]
    assert [each["text"] for each in check_targets(records) if each["measured"] is None] == []
