"""The orders that settings choose: functions of (seed, epoch), the same at any number of ranks and after a resume."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dist_train.data.orders.order import Balanced, Order, Shuffled, Unshuffled, Weighted, build_order
from dist_train.data.sampler import GlobalBatchSampler
from dist_train.distributed.world import World
from dist_train.errors import ConfigError, DataError, OwnCodeError
from dist_train.settings.schedule import samples_per_epoch, steps_per_epoch
from tests.unit.dist_train.data.files import labels_of
from tests.unit.dist_train.data.files import opened as opened_images
from tests.unit.dist_train.data.own.opened import SETS, configure, opened, train

ORDERS: dict[str, Callable[[int, int], Order]] = {
    "shuffled": Shuffled,
    "unshuffled": lambda *_: Unshuffled(),
    "balanced": lambda length, seed: Balanced(torch.arange(length) % 7 % 3, seed),
    "weighted": lambda length, seed: Weighted(torch.arange(length, dtype=torch.float64) + 1, seed),
}


def read(order: Order, length: int, batch: int, ranks: int, start: int, stop: int, drop_last: bool) -> list[list[int]]:
    """The samples of each step, of all ranks together."""
    streams = [
        GlobalBatchSampler(
            range(length), batch, num_replicas=ranks, rank=rank, seed=1, start_step=start, stop_step=stop, order=order,
            drop_last=drop_last,
        )
        for rank in range(ranks)
    ]  # fmt: skip
    return [[number for share in shares for number in share] for shares in zip(*streams, strict=True)]


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(ORDERS)),
    length=st.integers(1, 60),
    batch=st.integers(1, 20),
    ranks=st.integers(1, 5),
    start=st.integers(0, 9),
    drop_last=st.booleans(),
)
def test_ranks_and_resumes_change_nothing(
    name: str, length: int, batch: int, ranks: int, start: int, drop_last: bool
) -> None:
    if drop_last and length < batch:
        return
    order = ORDERS[name](length, 1)
    whole = read(order, length, batch, 1, 0, 12, drop_last)
    assert read(order, length, batch, ranks, start, 12, drop_last) == whole[start:]
    if drop_last:
        assert {len(samples) for samples in whole} == {batch}
    steps = steps_per_epoch(samples_per_epoch(length, batch, drop_last), batch)
    epoch = [number for samples in whole[:steps] for number in samples]
    assert all(0 <= number < length for number in epoch)
    if name in ("shuffled", "unshuffled"):
        assert len(set(epoch)) == len(epoch)


@pytest.mark.parametrize("name", ORDERS)
def test_epochs_and_seeds_differ(name: str) -> None:
    positions = torch.arange(500)
    found = [ORDERS[name](500, seed).take(positions, epoch).tolist() for seed in (1, 2) for epoch in (0, 1)]
    distinct = {str(order) for order in found}
    assert len(distinct) == (1 if name == "unshuffled" else 4)


@pytest.mark.parametrize("counts", [(1, 1, 1), (1000, 10, 1), (5, 0, 700)])
def test_classes_are_equally_likely(counts: tuple[int, ...]) -> None:
    labels = torch.arange(3).repeat_interleave(torch.tensor(counts))[torch.randperm(sum(counts))]
    drawn = Balanced(labels, 4).take(torch.arange(30_000), 2)
    found = torch.bincount(labels[drawn], minlength=3)
    there = torch.tensor(counts) > 0
    assert found[~there].sum() == 0
    expected = 30_000 / int(there.sum())
    assert ((found[there] - expected).abs() < 5 * expected**0.5).all()
    for label in there.nonzero().flatten().tolist():
        own = torch.bincount(drawn[labels[drawn] == label], minlength=len(labels))[labels == label]
        assert (own - own.float().mean()).abs().max() < 6 * own.float().mean().clamp(min=4).sqrt()


@pytest.mark.parametrize("labels", [[-1, 1, 1, 1], [10**12, -(10**12), 0, 0], [7] * 4])
def test_any_whole_number_is_a_class(labels: list[int]) -> None:
    tensor = torch.tensor(labels)
    found = tensor[Balanced(tensor, 4).take(torch.arange(30_000), 2)]
    for label in set(labels):
        assert abs(int((found == label).sum()) - 30_000 / len(set(labels))) < 500


@pytest.mark.parametrize("weights", [[1.0, 2, 3], [0.0, 5, 0, 5, 0], [1e-300, 1e-300], [1e6, 1e-3, 1e6, 0]])
def test_samples_are_as_likely_as_their_weights(weights: list[float]) -> None:
    tensor = torch.tensor(weights, dtype=torch.float64)
    found = torch.bincount(Weighted(tensor, 4).take(torch.arange(30_000), 2), minlength=len(weights))
    expected = 30_000 * tensor / tensor.sum()
    assert ((found - expected).abs() <= 5 * expected.sqrt().clamp(min=0.2)).all()
    assert found[tensor == 0].sum() == 0


@pytest.mark.parametrize("name", ["Labelled", "tensors", "part"])
@pytest.mark.parametrize("validation", [0.0, 0.3])
def test_labels_of_own_data_balance(name: str, validation: float) -> None:
    other: dict[str, Any] = {"part": True} if name == "part" else {}
    config = configure("tensors" if other else name, sampling="balanced", validation=validation, **other)
    dataset = opened(config)
    drawn = dataset.train.numbers(build_order(config, dataset.train, 3).take(torch.arange(3000), 0))
    targets = (drawn + len(other)) % 3
    assert set(drawn.tolist()) <= set(dataset.train.indices.tolist())
    assert (torch.bincount(targets) - 1000).abs().max() < 150


def test_labels_of_images_balance(settings: Callable[..., Any]) -> None:
    config = settings("synthetic", sampling="balanced", limit_train=40, num_classes=3)
    dataset = opened_images(config)
    drawn = build_order(config, dataset.train, 3).take(torch.arange(3000), 0)
    assert (torch.bincount(labels_of(dataset.train)[drawn]) - 1000).abs().max() < 150


def test_weights_are_those_of_the_samples_that_are_used() -> None:
    config = configure("Labelled", sampling="weighted", validation=0.3)
    samples = opened(config).train
    drawn = build_order(config, samples, 3).take(torch.arange(20_000), 0)
    weights = 1.0 + samples.indices
    expected = 20_000 * weights / weights.sum()
    assert ((torch.bincount(drawn) - expected).abs() < 5 * expected.sqrt()).all()


def numbers(batches: list[Any]) -> list[int]:
    return [number for batch in batches for number in batch.samples.tolist()]


def test_an_own_order_is_that_of_each_epoch() -> None:
    config = configure("Labelled", sampling=f"{SETS}:backward")
    assert numbers(train(config)) == [*range(10, -1, -1), *range(9, -1, -1), 10]
    random_order = configure("Labelled", sampling=f"{SETS}:draw")
    whole = numbers(train(random_order))
    assert whole[:11] != whole[11:]
    ranks = [train(random_order, World(rank=rank, size=2), steps=(2, 6)) for rank in range(2)]
    assert numbers(ranks[0]) == numbers(ranks[1]) == whole[8:]


def test_shuffling_can_be_off_and_small_batches_left_out() -> None:
    assert numbers(train(configure("Labelled", shuffle=False))) == [*range(11), *range(11)]
    assert numbers(train(configure("Labelled", shuffle=False, drop_last=True), steps=(0, 3))) == [*range(8), *range(4)]
    with pytest.raises(
        ConfigError, match=r"data\.drop_last leaves nothing .*data\.global_batch is 12, and there are 11"
    ):
        train(configure("Labelled", drop_last=True, global_batch=12))


@pytest.mark.parametrize(
    ("other", "complaint"),
    [
        ({"sampling": "balanced", "shuffle": False}, r"data\.shuffle is false, but data\.sampling=balanced"),
        ({"sampling": f"{SETS}:SIZE"}, "is of the type int, and no function"),
        ({"sampling": f"{SETS}:too_few"}, "returns 10 indices for epoch 0, and an epoch has 11"),
        ({"sampling": f"{SETS}:too_large"}, "indices from 0 to 11 for epoch 0; they must be from 0 to 10"),
        ({"sampling": f"{SETS}:fractions"}, "must return whole numbers in one dimension"),
        ({"sampling": f"{SETS}:texts"}, "returns a list, no indices"),
    ],
)
def test_what_is_no_order_is_refused(other: dict[str, Any], complaint: str) -> None:
    with pytest.raises((ConfigError, DataError), match=complaint):
        train(configure("Labelled", **other))


def test_what_an_order_lacks_is_named() -> None:
    for sampling, words in (("balanced", "an attribute `targets`"), ("weighted", "has no attribute `weights`")):
        with pytest.raises(DataError, match=words):
            train(configure("Items", kind="float32", sampling=sampling))
    with pytest.raises(OwnCodeError, match=r"(?s)the order of epoch 0 failed.*ZeroDivisionError"):
        train(configure("Labelled", sampling=f"{SETS}:divide_order"))


@pytest.mark.parametrize("weights", [[-1.0], [float("nan")], [float("inf")], [0.0] * 11, [1.0]])
def test_weights_that_are_none_are_refused(weights: list[float]) -> None:
    given = [*weights, *[1.0] * (11 - len(weights))] if weights != [1.0] else weights
    with pytest.raises(DataError, match="weight"):
        train(configure("Weights", weights=given, sampling="weighted"))


def test_orders_are_tensors_of_whole_numbers() -> None:
    for build in ORDERS.values():
        found: Tensor = build(9, 1).take(torch.arange(4), 3)
        assert (found.dtype, found.shape) == (torch.int64, (4,))
