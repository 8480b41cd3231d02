"""Batches of the user's data sets: the same bits by every loader, at any number of workers and ranks."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dist_train.data import Batch, eval_batches
from dist_train.distributed.world import World
from dist_train.nest import list_tensors
from tests.unit.dist_train.data.own.opened import configure, opened, train
from tests.unit.dist_train.data.own.sets import KINDS, SIZE

# Python 3.12 and later warn at each fork of a process with threads, which torch always has.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def leaves(batches: list[Batch]) -> list[Tensor]:
    """All tensors of the samples that count, in the order of the global batches."""
    return [
        tensor
        for batch in batches
        for shard in batch.shards
        if shard.num_samples
        for each in shard.passes
        for tensor in (*list_tensors(each.inputs), *list_tensors(each.targets))
    ]


def join(ranks: list[list[Batch]]) -> list[Tensor]:
    """What ranks have of each step, side by side, as a single rank has it."""
    joined = []
    for shares in zip(*ranks, strict=True):
        parts = [found for batch in shares if (found := leaves([batch]))]
        joined += [torch.cat(tensors) for tensors in zip(*parts, strict=True)]
    return joined


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def samples_of(batches: list[Batch]) -> list[int]:
    return [number for batch in batches for number in batch.samples.tolist()]


@pytest.mark.parametrize("noise", [False, True], ids=["plain", "random"])
@pytest.mark.parametrize("kind", KINDS)
def test_ranks_share_the_batch_of_one(kind: str, noise: bool) -> None:
    """Eleven samples in batches of four: the last batch of an epoch has three, and one of four ranks none."""
    config = configure("Items", kind=kind, noise=noise)
    alone = train(config)
    assert samples_of(alone)[:SIZE] != samples_of(alone)[SIZE : 2 * SIZE]
    assert sorted(samples_of(alone)[:SIZE]) == list(range(SIZE))
    for size in (2, 3, 4):
        ranks = [train(config, World(rank=rank, size=size)) for rank in range(size)]
        assert_same(join(ranks), leaves(alone))


@pytest.mark.parametrize("kind", ["float32", "picture", "dict", "dataclass", "named tuple"])
def test_workers_read_the_same(kind: str) -> None:
    """From a step inside an epoch on too, as after a resume."""
    alone = train(configure("Items", kind=kind, noise=True))
    for workers in (1, 2):
        config = configure("Items", kind=kind, noise=True, workers=workers)
        assert_same(leaves(train(config)), leaves(alone))
        assert_same(leaves(train(config, steps=(4, 6))), leaves(alone[4:]))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "no targets"])
def test_what_is_held_in_memory_is_the_same(kind: str) -> None:
    for workers in (0, 2):
        held = configure("Items", kind=kind, loader="in_memory", workers=workers)
        assert opened(held).loader == "in_memory"
        assert_same(leaves(train(held)), leaves(train(configure("Items", kind=kind))))


def test_random_transforms_are_frozen_in_memory() -> None:
    """As they are in the first epoch."""
    fresh = train(configure("Items", kind="scalar", noise=True, global_batch=SIZE), steps=(0, 2))
    held = train(configure("Items", kind="scalar", noise=True, global_batch=SIZE, loader="in_memory"), steps=(0, 2))
    assert_same(leaves(held[:1]), leaves(fresh[:1]))
    orders = [batch.samples.argsort() for batch in held]
    first, second = ([tensor[order] for tensor in leaves([batch])] for batch, order in zip(held, orders, strict=True))
    assert_same(second, first)
    again = [tensor[fresh[1].samples.argsort()] for tensor in leaves(fresh[1:])]
    assert not torch.equal(again[1], first[1])


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "int32", "bfloat16", "complex64", "bool"])
@pytest.mark.parametrize("part", [False, True])
def test_a_tensor_dataset_is_held_in_memory(dtype: str, part: bool) -> None:
    held, read = (configure("tensors", dtype=dtype, part=part, loader=loader) for loader in ("auto", "workers"))
    assert (opened(held).loader, opened(read).loader) == ("in_memory", "workers")
    assert_same(leaves(train(held)), leaves(train(read)))
    assert leaves(train(held))[0].dtype == getattr(torch, dtype)


@pytest.mark.parametrize("shards", [1, 2, 4, 8])
@pytest.mark.parametrize("micro_batch", [None, 1, 2, 3])
def test_each_pass_is_collated_by_itself(shards: int, micro_batch: int | None) -> None:
    """Sequences are padded to the longest of their own pass, at any number of ranks."""
    config = configure("Lengths", collate="pad", global_batch=10)
    expected = train(config, shards=shards, micro_batch=micro_batch)
    for batch in expected:
        for shard in batch.shards:
            passes = shard.passes
            assert sum(each.num_samples for each in passes) == max(2, shard.num_samples) or shard.num_samples == 1
            assert all(each.num_samples <= (micro_batch or 10) for each in passes)
            for each in passes:
                lengths = (each.inputs != 0).sum(1).clamp(min=1)
                assert each.inputs.shape[1] >= int(lengths.max())
            counted = torch.cat([each.targets for each in passes])[: shard.num_samples]
            assert counted.tolist() == [number % 3 for number in shard.indices.tolist()]
    for size in {1, 2, shards} & {1, shards} | ({2} if shards > 1 else set()):
        ranks = [
            train(config, World(rank=rank, size=size), shards=shards, micro_batch=micro_batch) for rank in range(size)
        ]
        shared = [leaves(list(step)) for step in zip(*ranks, strict=True)]
        assert_same([tensor for step in shared for tensor in step], leaves(expected))


def test_a_collate_may_draw_too() -> None:
    config = configure("Lengths", collate="shake")
    assert_same(leaves(train(config)), leaves(train(config.model_copy(update={"workers": 2}))))
    first, second = train(configure("Lengths", collate="shake", global_batch=SIZE), steps=(0, 2))
    assert leaves([first])[0].max() != leaves([second])[0].max()


def test_structures_stay() -> None:
    (batch,) = train(configure("Items", kind="named tuple"), steps=(0, 1))
    assert type(batch.shards[0].passes[0].inputs).__name__ == "Point"
    (batch,) = train(configure("Items", kind="dataclass"), steps=(0, 1))
    whole = batch.shards[0].passes[0]
    assert type(whole.inputs).__name__ == "Record"
    assert whole.inputs.weight.dtype == torch.float32
    assert list(whole.targets) == ["a"]


def test_pictures_are_floats_from_0_to_1() -> None:
    (batch,) = train(configure("Items", kind="picture"), steps=(0, 1))
    images, numbers = batch.shards[0].passes[0].inputs, batch.samples
    assert images.shape == (4, 3, 4, 5)
    torch.testing.assert_close(images[:, 0, 0, 0], numbers / 255)


@pytest.mark.parametrize(
    ("name", "other"), [("tensors", {}), ("Items", {"kind": "dict"}), ("Lengths", {"collate": "pad"})]
)
def test_a_rank_without_samples_gets_placeholders(name: str, other: dict[str, Any]) -> None:
    """Eleven samples in batches of ten: the second batch is one sample, which rank 0 has."""
    config = configure(name, global_batch=10, **other)
    real, empty = (train(config, World(rank=rank, size=2), steps=(1, 2))[0].shards[0] for rank in range(2))
    assert (real.num_samples, empty.num_samples) == (1, 0)
    assert len(empty.indices) == 0
    (only,), (placeholder,) = real.passes, empty.passes
    for one, other_one in zip(list_tensors(only), list_tensors(placeholder), strict=True):
        assert torch.equal(other_one, torch.cat([one, one]))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["Items", "tensors"])
def test_every_sample_is_evaluated_once(name: str, workers: int) -> None:
    config = configure(name, workers=workers, **({"kind": "float32"} if name == "Items" else {}))
    dataset = opened(config)
    assert dataset.test
    alone = list(eval_batches(dataset.test, dataset, config, World()))
    assert [batch.num_samples for batch in alone] == [4, 4, 3]
    assert torch.equal(
        torch.cat([batch.targets for batch in alone]), (torch.arange(SIZE) + 100 * (name == "Items")) % 3
    )
    for size in (2, 3):
        worlds = [World(rank=rank, size=size) for rank in range(size)]
        dealt = sorted(
            (batch for world in worlds for batch in eval_batches(dataset.test, dataset, config, world)),
            key=lambda batch: batch.number,
        )
        for one, other in zip(dealt, alone, strict=True):
            assert torch.equal(one.inputs, other.inputs)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize(
    ("name", "other"), [("tensors", {}), ("Items", {"kind": "dict"}), ("Lengths", {"collate": "pad"})]
)
def test_examples_have_as_many_samples_as_asked_for(name: str, other: dict[str, Any], count: int) -> None:
    inputs, targets = opened(configure(name, **other)).make_example(count)
    assert {len(tensor) for tensor in list_tensors((inputs, targets))} == {count}
