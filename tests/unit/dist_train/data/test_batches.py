"""Batches that train or are evaluated: the same bits by every loader and at any number of ranks."""

import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dist_train.data import Batch, TrainBatches, eval_batches, memory
from dist_train.data import batches as batches_module
from dist_train.data.batches import EVAL_BATCH, eval_batch_size
from dist_train.distributed.world import World
from dist_train.system.stop_signals import Stop, StopRequested
from tests.unit.dist_train.data.files import (
    ALL,
    SEED,
    Settings,
    Trained,
    flat,
    held_out,
    labels_of,
    opened,
    trained,
    write_images,
)

# Python 3.12 and later warn at each fork of a process with threads, which torch always has.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.mark.parametrize("size", [1, 2, 3])
def test_loaders_give_the_same_batches(settings: Settings, root: Path, size: int) -> None:
    """Resident, in the rank and by workers; whole, and from a step inside the second epoch on."""
    write_images(root)
    common = {"augment": ALL, "global_batch": 7, "validation": 0.05}
    kinds: list[dict[str, Any]] = [
        {"loader": "in_memory"},
        {"loader": "workers", "workers": 0},
        {"loader": "workers", "workers": 2},
    ]
    configs = [settings("image_folder", **common, **kind) for kind in kinds]
    for rank in range(size):
        world = World(rank=rank, size=size)
        expected = trained(opened(configs[0], world), configs[0], world, 0, 9)
        assert [batch.step for batch in expected] == list(range(9))
        assert [batch.epoch for batch in expected] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        for config in configs:
            assert_equal(trained(opened(config, world), config, world, 4, 9), expected[4:])


def assert_equal(found: list[Trained], expected: list[Trained]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.num_samples, one.count, one.step, one.epoch) == (
            other.num_samples,
            other.count,
            other.step,
            other.epoch,
        )
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.indices, other.indices)


IN_MEMORY = {"loader": "in_memory"}
BY_WORKERS = {"loader": "workers", "workers": 2}


@pytest.mark.parametrize(
    ("global_batch", "shards", "loader"),
    [
        *((4, 1, IN_MEMORY), (7, 1, IN_MEMORY), (3, 8, IN_MEMORY), (16, 8, IN_MEMORY), (40, 4, IN_MEMORY)),
        *((7, 1, BY_WORKERS), (17, 2, BY_WORKERS)),
    ],
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["first", "last"])
def test_what_is_prepared_together_changes_no_bit(
    settings: Settings,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    global_batch: int,
    shards: int,
    loader: dict[str, Any],
    memory_format: torch.memory_format,
) -> None:
    """From one batch at a time to all of an epoch; at several numbers of ranks, and from a step inside an epoch on.

    18 samples: the last batch of an epoch is smaller, and empty shards have two placeholders.
    """
    write_images(root)
    config = settings("image_folder", augment=ALL, global_batch=global_batch, **loader)
    dataset = opened(config)
    sample = (3 * 8 * 10 + 8) * 4

    def batches(together: int, size: int, rank: int, start: int, stop: int) -> list[Batch]:
        share = -(-min(global_batch, 18) // shards) * (shards // size)
        monkeypatch.setattr(batches_module, "AHEAD", {"cpu": together * share * sample})
        world = World(rank=rank, size=size)
        stream = TrainBatches(dataset, config, SEED, world, start, stop, memory_format, shards if shards > 1 else None)
        with stream:
            assert stream._count_batches_together() == max(1, together)
            return list(stream)

    stop = 3 * -(-18 // global_batch)
    for size in {1, shards}:
        for rank in {0, size - 1}:
            expected = batches(0, size, rank, 0, stop)
            assert [batch.step for batch in expected] == list(range(stop))
            for together, start in ((2, 0), (3, min(1, stop - 1)), (100, stop // 2)):
                found = batches(together, size, rank, start, stop)
                assert len(found) == stop - start
                for one, other in zip(found, expected[start:], strict=True):
                    assert_same_batch(one, other, memory_format)


def assert_same_batch(one: Batch, other: Batch, memory_format: torch.memory_format) -> None:
    assert (one.count, one.step, one.epoch) == (other.count, other.step, other.epoch)
    assert torch.equal(one.samples, other.samples)
    assert len(one.shards) == len(other.shards)
    for found, expected in zip(one.shards, other.shards, strict=True):
        assert (found.number, found.num_samples) == (expected.number, expected.num_samples)
        assert torch.equal(found.indices, expected.indices)
        for one_pass, other_pass in zip(found.passes, expected.passes, strict=True):
            left, right = one_pass.inputs, other_pass.inputs
            assert left.data_ptr() % 64 == right.data_ptr() % 64 == 0  # as torch allocates
            assert left.is_contiguous(memory_format=memory_format)
            assert left.stride() == right.stride()
            assert left.dtype == right.dtype
            assert torch.equal(left, right)
            assert torch.equal(one_pass.targets, other_pass.targets)


@pytest.mark.gpu
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["first", "last"])
@pytest.mark.parametrize("fits", [True, False])
def test_a_gpu_gets_the_same_bits_and_is_never_waited_for(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, memory_format: torch.memory_format, fits: bool
) -> None:
    """Also where its memory does not hold the images, and they are sent batch by batch."""
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    if not fits:
        monkeypatch.setattr(memory, "device_bytes", lambda _: 0)
    config = settings("synthetic", shape=(3, 8, 8), num_train=70, global_batch=16, augment=ALL)
    gpu = World(device=torch.device("cuda", 0))
    on_gpu, on_cpu = opened(config, gpu), opened(config)
    expected = trained(on_cpu, config, World(), 0, 12)
    with TrainBatches(on_gpu, config, SEED, gpu, 0, 12, memory_format) as batches:
        found = [flat(next(batches))]
        torch.cuda.set_sync_debug_mode("error")
        try:
            found += [flat(batch) for batch in batches]
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert {one.images.device for one in found} == {gpu.device}
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.images.cpu(), other.images)
        assert torch.equal(one.labels.cpu(), other.labels)
        assert torch.equal(one.indices, other.indices)


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_share_the_batch_of_a_single_one(settings: Settings, root: Path, workers: int) -> None:
    write_images(root)
    config = settings("image_folder", augment=ALL, global_batch=8, loader="workers", workers=workers)
    dataset = opened(config)
    whole = trained(dataset, config, World(), 0, 6)
    ranks = [trained(dataset, config, World(rank=rank, size=4), 0, 6) for rank in range(4)]
    for alone, *shares in zip(whole, *ranks, strict=True):
        assert torch.equal(torch.cat([batch.images[: batch.num_samples] for batch in shares]), alone.images)
        assert torch.equal(torch.cat([batch.labels[: batch.num_samples] for batch in shares]), alone.labels)
        assert torch.equal(torch.cat([batch.indices for batch in shares]), alone.indices)
        assert torch.equal(labels_of(dataset.train)[alone.indices], alone.labels)
        assert {batch.count for batch in shares} == {alone.count} == {alone.num_samples}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_rank_without_samples_gets_placeholders(settings: Settings, root: Path, workers: int) -> None:
    """18 samples in batches of 17: the second batch is one sample, which rank 0 has."""
    write_images(root)
    config = settings("image_folder", augment=ALL, global_batch=17, loader="workers", workers=workers)
    dataset = opened(config)
    real = trained(dataset, config, World(rank=0, size=2), 0, 2)[1]
    empty = trained(dataset, config, World(rank=1, size=2), 0, 2)[1]
    assert (real.num_samples, real.count, empty.num_samples, empty.count) == (1, 1, 0, 1)
    assert len(empty.indices) == 0
    assert torch.equal(empty.images, real.images.repeat(2, 1, 1, 1))
    assert torch.equal(empty.labels, real.labels.repeat(2))


def test_augmentation_reaches_the_training_only(settings: Settings) -> None:
    plain, augmented = settings("digits", validation=0.2), settings("digits", validation=0.2, augment=ALL)
    dataset = opened(plain)
    first, second = (trained(dataset, config, World(), 0, 1)[0] for config in (plain, augmented))
    assert torch.equal(first.indices, second.indices)
    assert not torch.equal(first.images, second.images)
    assert dataset.validation is not None
    for samples in (dataset.validation, held_out(dataset)):
        both = [list(eval_batches(samples, dataset, config, World())) for config in (plain, augmented)]
        for one, other in zip(*both, strict=True):
            assert torch.equal(one.inputs, other.inputs)


@pytest.mark.parametrize(
    ("device", "shape", "size"),
    [
        ("cpu", (1, 28, 28), EVAL_BATCH),
        ("cuda", (1, 28, 28), 1337),
        ("cuda", (3, 32, 32), 1024),
        ("cuda", (3, 224, 224), EVAL_BATCH),
    ],
)
def test_a_gpu_evaluates_many_small_images_at_once(
    settings: Settings, device: str, shape: tuple[int, int, int], size: int
) -> None:
    dataset = replace(opened(settings("synthetic")), shape=shape)
    assert eval_batch_size(dataset, settings("synthetic"), torch.device(device)) == size


@pytest.mark.parametrize(
    ("name", "wanted"), [("test", None), ("validation", None), ("test", 1), ("test", 64), ("test", 10**9)]
)
def test_eval_batches_are_dealt_out_whole(settings: Settings, name: str, wanted: int | None) -> None:
    """Also with `eval.batch_size`: the same batches at every number of ranks."""
    config = settings("digits", validation=0.5)
    dataset = opened(config)
    samples = held_out(dataset) if name == "test" else dataset.validation
    assert samples is not None
    each = wanted or EVAL_BATCH
    alone = list(eval_batches(samples, dataset, config, World(), batch_size=wanted))
    assert [len(batch.targets) for batch in alone] == [
        min(each, len(samples) - start) for start in range(0, len(samples), each)
    ]
    assert torch.equal(torch.cat([batch.targets for batch in alone]), labels_of(samples))
    for size in (2, 3, 4):
        worlds = [World(rank=rank, size=size) for rank in range(size)]
        dealt = [
            batch for world in worlds for batch in eval_batches(samples, dataset, config, world, batch_size=wanted)
        ]
        dealt.sort(key=lambda batch: batch.number)
        assert [batch.number for batch in dealt] == list(range(len(alone)))
        assert all(torch.equal(one.inputs, other.inputs) for one, other in zip(dealt, alone, strict=True))


def test_eval_batches_by_workers_are_the_same(settings: Settings, root: Path) -> None:
    write_images(root, classes=2, each=300, size=(3, 3))
    resident, workers = settings("image_folder", loader="in_memory"), settings("image_folder", loader="workers")
    both = [
        list(eval_batches(held_out(opened(config)), opened(config), config, World())) for config in (resident, workers)
    ]
    assert [len(batch.targets) for batch in both[0]] == [250, 50]
    assert all(torch.equal(one.inputs, other.inputs) for one, other in zip(*both, strict=True))
    assert not multiprocessing.active_children()


def test_float64_and_channels_last(settings: Settings) -> None:
    config = settings("synthetic", shape=(3, 8, 8))
    dataset = opened(config)
    torch.set_default_dtype(torch.float64)
    try:
        with TrainBatches(dataset, config, SEED, World(), 0, 1, torch.channels_last) as batches:
            batch = flat(next(batches))
    finally:
        torch.set_default_dtype(torch.float32)
    assert batch.images.dtype == torch.float64
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.labels.dtype == batch.indices.dtype == torch.int64


@pytest.mark.parametrize("workers", [0, 2])
def test_the_global_random_state_is_left_alone(settings: Settings, root: Path, workers: int) -> None:
    write_images(root)
    config = settings("image_folder", augment=ALL, global_batch=4, loader="workers", workers=workers, validation=0.2)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    dataset = opened(config)
    trained(dataset, config, World(), 0, 8)
    list(eval_batches(held_out(dataset), dataset, config, World()))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # type: ignore[index]


def test_a_stop_ends_evaluation_batches(settings: Settings) -> None:
    """In the process itself too, before the next batch."""
    config, stop = settings("synthetic", num_test=3 * EVAL_BATCH), Stop()
    dataset = opened(config)
    batches = eval_batches(held_out(dataset), dataset, config, World(), stop=stop)
    assert next(batches).number == 0
    stop.reason = "SIGTERM"
    with pytest.raises(StopRequested, match="SIGTERM"):
        next(batches)


@pytest.mark.parametrize(("size", "seconds"), [(1, 0.0), (3, 30.0)])
def test_ranks_that_others_wait_for_have_a_grace_time(
    settings: Settings, size: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, Any]] = []

    def open_loader(*_: object, **options: Any) -> Iterator[Tensor]:
        given.append(options)
        return iter(())

    monkeypatch.setattr(batches_module, "SampleLoader", open_loader)
    config, stop = settings("synthetic"), Stop()
    TrainBatches(opened(config), config, SEED, World(size=size), 0, 1, stop=stop)
    assert given == [{"pin": False, "stop": stop, "stop_after_seconds": seconds}]
