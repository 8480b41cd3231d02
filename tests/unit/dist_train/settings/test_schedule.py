"""The schedule of a run: what is due after each step."""

from typing import Any

import pytest

from dist_train.settings.schedule import Schedule
from dist_train.settings.schema import Checkpoint, Config, Eval, Log, Run, SmallNet, SyntheticData, Train
from dist_train.settings.schema.optim import SGD


def make_schedule(num_train: int = 100, global_batch: int = 30, epochs: int | None = 3, **train: Any) -> Schedule:
    sections = {name: train.pop(name) for name in ("eval", "checkpoint", "log") if name in train}
    config = Config(
        run=Run(name="test", dir="runs/test"),
        data=SyntheticData(name="synthetic", root="data", cache="cache", global_batch=global_batch),
        model=SmallNet(name="lenet"),
        optim=SGD(name="sgd"),
        train=Train(epochs=epochs, **train),
        **sections,
    )
    return Schedule.from_config(config, num_train)


def due(check: Any, found: Schedule) -> list[int]:
    return [step for step in range(1, found.total_steps + 1) if check(step)]


@pytest.mark.parametrize(("num_train", "steps"), [(1, 1), (30, 1), (31, 2), (100, 4), (120, 4)])
def test_the_last_step_of_an_epoch_may_be_smaller(num_train: int, steps: int) -> None:
    found = make_schedule(num_train)
    assert (found.steps_per_epoch, found.total_steps) == (steps, 3 * steps)


@pytest.mark.parametrize(
    ("epochs", "max_steps", "total"), [(3, None, 12), (3, 7, 7), (3, 100, 12), (None, 100, 100), (None, 1, 1)]
)
def test_a_run_ends_at_whichever_comes_first(epochs: int | None, max_steps: int | None, total: int) -> None:
    assert make_schedule(epochs=epochs, max_steps=max_steps).total_steps == total


def test_epochs_are_counted_when_they_are_finished() -> None:
    assert [make_schedule().epoch(step) for step in (0, 3, 4, 11, 12)] == [0, 0, 1, 2, 3]


def test_by_default_an_epoch_ends_with_an_evaluation_and_a_save() -> None:
    found = make_schedule()
    assert due(found.is_saved, found) == due(found.is_evaluated, found) == [4, 8]
    assert due(found.is_logged, found) == [12]


def test_settings_decide_what_is_due() -> None:
    found = make_schedule(
        eval=Eval(every_epochs=2), checkpoint=Checkpoint(every_steps=5), log=Log(every_steps=4), max_steps=11
    )
    assert due(found.is_evaluated, found) == [8]
    assert due(found.is_saved, found) == [5, 10]
    assert due(found.is_logged, found) == [4, 8, 11]


def test_evaluation_only_at_the_end() -> None:
    found = make_schedule(eval=Eval(every_epochs=0))
    assert due(found.is_evaluated, found) == []


@pytest.mark.parametrize(("ranks", "micro_batch", "largest"), [(1, None, 30), (4, None, 8), (4, 3, 3), (4, 100, 8)])
def test_the_largest_pass_is_of_a_share_or_a_micro_batch(ranks: int, micro_batch: int | None, largest: int) -> None:
    assert make_schedule(micro_batch=micro_batch).largest_pass(ranks) == largest
    assert make_schedule(num_train=5).largest_pass(2) == 3


@pytest.mark.parametrize(
    ("ranks", "micro_batch", "max_steps", "fewest"),
    [
        (1, None, None, 10),  # the last batch of an epoch
        (1, None, 3, 30),  # which is not reached
        (3, None, None, 3),
        (11, None, None, 1),
        (2, 3, 3, 3),  # 15 is split into five threes
        (4, 3, 3, 2),  # shares of 8 and 7: 3 + 3 + 2
        (2, 2, 3, 1),
    ],
)
def test_the_smallest_pass(ranks: int, micro_batch: int | None, max_steps: int | None, fewest: int) -> None:
    assert make_schedule(micro_batch=micro_batch, max_steps=max_steps).smallest_pass(ranks) == fewest
