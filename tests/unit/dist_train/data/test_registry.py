"""Opening data sets, the cache, both loaders, and what is said of bad files."""

import contextlib
import fcntl
import gzip
import hashlib
import io
import logging
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dist_train.data import Batch, Dataset, TrainBatches, eval_batches, memory, open_dataset, statistics
from dist_train.data import batches as batches_module
from dist_train.data import cache as cache_module
from dist_train.data import loader as reader
from dist_train.data.batches import EVAL_BATCH
from dist_train.data.datasets import download, image_folder
from dist_train.data.datasets.cifar import LAYOUTS
from dist_train.data.samples import InMemoryImages
from dist_train.data.source import resized
from dist_train.distributed.world import World
from dist_train.errors import DataError
from dist_train.settings.schema import Augment, Data, Normalize, StoredData, SyntheticData

# Python 3.12 and later say at each fork that the process has threads, as torch's always has.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

SEED = 3
ALL = Augment(crop_padding=2, flip=True, cutout=3)
Settings = Callable[..., Data]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Builds settings with the root and the cache under `tmp_path`."""

    def build(name: str, **other: Any) -> Data:
        kind = SyntheticData if name == "synthetic" else StoredData
        places = {"root": str(tmp_path / "root"), "cache": str(tmp_path / "cache"), "download": False}
        return kind.model_validate({"name": name, **places, **other})

    return build


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


def opened(config: Data, world: World | None = None) -> Dataset:
    return open_dataset(config, SEED, world or World())


@dataclass(frozen=True)
class Trained:
    """A batch and its only shard."""

    images: torch.Tensor
    labels: torch.Tensor
    share: int
    indices: torch.Tensor
    count: int
    step: int
    epoch: int


def flat(batch: Batch) -> Trained:
    (shard,) = batch.shards
    return Trained(shard.images, shard.labels, shard.share, shard.indices, batch.count, batch.step, batch.epoch)


def trained(dataset: Dataset, config: Data, world: World, start: int, stop: int) -> list[Trained]:
    with TrainBatches(dataset, config, SEED, world, start, stop) as batches:
        return [flat(batch) for batch in batches]


def write_images(root: Path, classes: int = 3, each: int = 6, size: tuple[int, int] = (8, 10)) -> None:
    """Noise in PNG files: `each` a class in train, half as many in test."""
    generator = np.random.default_rng(0)
    for split, count in (("train", each), ("test", each // 2)):
        for label in range(classes):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")


def write_idx(root: Path, name: str = "MNIST", train: int = 12, test: int = 5) -> Path:
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(1)
    for prefix, count in (("train", train), ("t10k", test)):
        pixels = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        sizes = b"".join(n.to_bytes(4, "big") for n in pixels.shape)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(bytes((0, 0, 8, 3)) + sizes + pixels.tobytes())
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(
            bytes((0, 0, 8, 1)) + count.to_bytes(4, "big") + labels.tobytes()
        )
    return folder


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings, as they are in the original files."""

    def save_string(self, content: bytes) -> None:
        self.write(b"T" + len(content).to_bytes(4, "little") + content)  # type: ignore[attr-defined]

    dispatch = pickle._Pickler.dispatch.copy()
    dispatch[bytes] = save_string  # type: ignore[assignment]


def pickled(content: object, protocol: int | None) -> bytes:
    """None: as Python 2 did."""
    if protocol is not None:
        return pickle.dumps(content, protocol)
    file = io.BytesIO()
    Python2Pickler(file, 2).dump(content)
    return file.getvalue()


def write_cifar(root: Path, name: str = "cifar10", each: int = 4, protocol: int | None = None, **other: object) -> Path:
    layout = LAYOUTS[name]
    folder = root / layout.folder
    folder.mkdir(parents=True)
    generator = np.random.default_rng(2)
    for batch in (*layout.batches["train"], *layout.batches["test"]):
        content = {
            "data": generator.integers(0, 256, (each, 3072), dtype=np.uint8),
            layout.labels: [int(label) for label in generator.integers(0, 10, each)],
            **other,
        }
        (folder / batch).write_bytes(pickled(content, protocol))
    (folder / layout.meta).write_bytes(pickle.dumps({layout.classes: [f"name{n}" for n in range(10)]}))
    return folder


def refusal(config: Data) -> str:
    """What is said when the data are opened, or else when they are read."""

    def read_all() -> None:
        dataset = opened(config)
        trained(dataset, config, World(), 0, 1)
        list(eval_batches(dataset.test, dataset, config, World()))

    with pytest.raises(DataError) as caught:
        read_all()
    return str(caught.value)


# What is in a data set


def test_digits_split_is_stratified_and_fixed(settings: Settings) -> None:
    first, second = (open_dataset(settings("digits"), seed, World()) for seed in (0, 1))
    assert first.shape == (1, 28, 28)
    assert len(first.train) + len(first.test) == 1797
    assert torch.equal(first.test.labels, second.test.labels)
    everywhere = torch.bincount(torch.cat([first.train.labels, first.test.labels]))
    assert torch.equal(torch.bincount(first.test.labels), everywhere // 5)
    pixels = first.train.images.take(torch.arange(100))
    assert int(pixels.min()) == 0
    assert int(pixels.max()) == 255


def test_synthetic_depends_on_the_seed(settings: Settings) -> None:
    config = settings("synthetic", shape=(3, 6, 5), num_classes=4, num_train=50, num_test=20)
    one, same, other = (open_dataset(config, seed, World()) for seed in (0, 0, 1))
    pixels = [dataset.train.images.take(torch.arange(50)) for dataset in (one, same, other)]
    assert one.shape == (3, 6, 5)
    assert (len(one.train), len(one.test), one.classes) == (50, 20, ("0", "1", "2", "3"))
    assert torch.equal(pixels[0], pixels[1])
    assert not torch.equal(pixels[0], pixels[2])
    assert not torch.equal(pixels[0][:20], one.test.images.take(torch.arange(20)))


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
def test_idx_files(settings: Settings, root: Path, name: str, folder: str) -> None:
    raw = write_idx(root, folder)
    dataset = opened(settings(name))
    stored = np.frombuffer((raw / "t10k-images-idx3-ubyte").read_bytes()[16:], np.uint8).reshape(5, 1, 28, 28)
    assert np.array_equal(dataset.test.images.take(torch.arange(5)).numpy(), stored)
    assert dataset.train.labels.tolist() == [*range(10), 0, 1]
    assert len(dataset.classes) == 10
    assert dataset.normalize == statistics.KNOWN[name]


@pytest.mark.parametrize(
    ("name", "protocol"), [("cifar10", None), ("cifar100", None), ("cifar10", 2), ("cifar10", 4), ("cifar10", 5)]
)
def test_cifar_batches(
    settings: Settings, root: Path, name: str, protocol: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_cifar(root, name, protocol=protocol)
    dataset = opened(settings(name))
    file = folder / LAYOUTS[name].batches["train"][-1]
    last = pickle.loads(file.read_bytes(), encoding="latin1")  # noqa: S301
    assert np.array_equal(dataset.train.images.take(dataset.train.indices[-4:]).numpy().reshape(4, -1), last["data"])
    assert dataset.train.labels[-4:].tolist() == last[LAYOUTS[name].labels]
    assert dataset.classes[3] == "name3"
    assert f"these are not the original {LAYOUTS[name].loader} files" in caplog.text


def test_image_folder_reads_as_torchvision(settings: Settings, root: Path) -> None:
    from torchvision.datasets import ImageFolder
    from torchvision.datasets.folder import IMG_EXTENSIONS

    write_images(root)
    for number, name in enumerate("zmakbq"):
        deeper = root / "train" / "class1" / name
        deeper.mkdir()
        Image.new("L", (10, 8), 7 * number).save(deeper / "GREY.JPG")
    (root / "train" / "class1" / "notes.txt").write_text("no image")
    theirs = ImageFolder(str(root / "train"))
    dataset = opened(settings("image_folder"))
    assert list(dataset.classes) == theirs.classes
    assert dataset.train.labels.tolist() == theirs.targets
    pixels = np.stack([np.asarray(image).transpose(2, 0, 1) for image, _ in theirs])
    assert np.array_equal(dataset.train.images.take(dataset.train.indices).numpy(), pixels)
    assert image_folder.ENDINGS == IMG_EXTENSIONS


@pytest.mark.parametrize("size", [(8, 10), (10, 8), (6, 6)])
def test_resize_scales_the_shorter_side_and_cuts_the_middle(
    size: tuple[int, int], root: Path, settings: Settings
) -> None:
    write_images(root, size=size)
    dataset = opened(settings("image_folder", resize=6))
    first = Image.open(root / "train" / "class0" / "0.png")
    width, height = 6 * size[1] // min(size), 6 * size[0] // min(size)
    box = ((width - 6) // 2, (height - 6) // 2, (width - 6) // 2 + 6, (height - 6) // 2 + 6)
    expected = np.asarray(first.resize((width, height), Image.Resampling.BILINEAR).crop(box)).transpose(2, 0, 1)
    assert dataset.shape == (3, 6, 6)
    assert np.array_equal(dataset.train.images.take(torch.tensor([0]))[0].numpy(), expected)


def test_resize_of_arrays_is_independent_of_the_batch() -> None:
    images = torch.randint(0, 256, (2050, 1, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    together = resized(images, 5)
    assert together.shape == (2050, 1, 5, 5)
    for index in (0, 1023, 1024, 2049):
        assert torch.equal(resized(images[index : index + 1], 5)[0], together[index])
    constant = resized(torch.full((1, 3, 4, 9), 200, dtype=torch.uint8), 8)
    assert bool((constant == 200).all())


def test_statistics_are_those_of_the_whole_train_split(settings: Settings, root: Path) -> None:
    write_images(root)
    dataset = opened(settings("image_folder", limit_train=2))
    pixels = dataset.train.images.take(torch.arange(18)).numpy() / 255
    np.testing.assert_allclose(dataset.normalize.mean, pixels.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(dataset.normalize.std, pixels.std((0, 2, 3)), rtol=1e-12)


def test_a_constant_channel_is_not_divided_by_zero() -> None:
    found = statistics.computed(InMemoryImages(torch.full((5, 1, 2, 2), 51, dtype=torch.uint8)))
    assert found == {"mean": [0.2], "std": [1.0]}


def test_normalize_has_to_fit_the_channels(settings: Settings) -> None:
    numbers = (0.5,) * 3
    config = settings("digits", normalize=Normalize(mean=numbers, std=numbers))
    assert refusal(config).startswith("data.normalize: mean has 3 number(s), but images of digits have 1 channel(s)")


# Which samples


@pytest.mark.parametrize(("limit", "expected"), [(4, [0, 3, 6, 9]), (5, [0, 2, 4, 7, 9]), (12, None), (500, None)])
def test_limits_are_evenly_spaced(settings: Settings, root: Path, limit: int, expected: list[int] | None) -> None:
    write_idx(root)
    dataset = opened(settings("mnist", limit_train=limit, limit_test=2))
    assert dataset.train.indices.tolist() == (expected or list(range(12)))
    assert dataset.test.indices.tolist() == [0, 2]
    assert dataset.train.labels.tolist() == [index % 10 for index in dataset.train.indices.tolist()]


@pytest.mark.parametrize(("fraction", "held_out"), [(0.01, 1), (0.25, 3), (0.29, 3), (0.3, 4), (0.9, 11)])
def test_validation_is_split_off_by_the_seed(settings: Settings, root: Path, fraction: float, held_out: int) -> None:
    write_idx(root)
    dataset = opened(settings("mnist", validation=fraction))
    assert dataset.validation is not None
    assert len(dataset.validation) == held_out
    both = torch.cat([dataset.train.indices, dataset.validation.indices])
    assert sorted(both.tolist()) == list(range(12))
    other = open_dataset(settings("mnist", validation=fraction), SEED + 1, World()).validation
    assert other is not None
    if 1 < held_out < 11:
        assert not torch.equal(dataset.validation.indices, other.indices)


def test_no_validation_and_too_much(settings: Settings, root: Path) -> None:
    write_idx(root)
    assert opened(settings("mnist")).validation is None
    assert "leaves none to train on" in refusal(settings("mnist", validation=0.99))
    assert "data.validation is 0.1: of 1 training sample(s)" in refusal(
        settings("mnist", validation=0.1, limit_train=1)
    )


def test_no_rank_holds_an_array_that_counts_up(settings: Settings, root: Path) -> None:
    """Labels are those that the ranks share, and what is left out costs only its own size."""
    write_idx(root)
    whole, part = opened(settings("mnist")), opened(settings("mnist", limit_train=4))
    assert whole.train.chosen is None
    assert whole.test.chosen is None
    assert whole.train.labels.untyped_storage().nbytes() == 12 * 8
    assert whole.train.numbers(torch.tensor([3, 1], dtype=torch.int32)).tolist() == [3, 1]
    assert part.train.numbers(torch.tensor([3, 1], dtype=torch.int32)).tolist() == [9, 3]
    assert whole.train.numbers(torch.tensor([1], dtype=torch.int32)).dtype == torch.int64


# Batches


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
        assert (one.share, one.count, one.step, one.epoch) == (other.share, other.count, other.step, other.epoch)
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.indices, other.indices)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["first", "last"])
@pytest.mark.parametrize(
    "loader", [{"loader": "in_memory"}, {"loader": "workers", "workers": 2}], ids=["in_memory", "workers"]
)
@pytest.mark.parametrize(("global_batch", "shards"), [(4, 1), (7, 1), (3, 8), (16, 8), (17, 2), (40, 4)])
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

    18 samples: the last batch of an epoch is smaller, and shards that find no sample have two that stand in.
    """
    write_images(root)
    config = settings("image_folder", augment=ALL, global_batch=global_batch, **loader)
    dataset = opened(config)
    image = 3 * 8 * 10 * 4

    def batches(together: int, size: int, rank: int, start: int, stop: int) -> list[Batch]:
        share = -(-min(global_batch, 18) // shards) * (shards // size)
        monkeypatch.setattr(batches_module, "AHEAD", {"cpu": together * share * image})
        world = World(rank=rank, size=size)
        stream = TrainBatches(dataset, config, SEED, world, start, stop, memory_format, shards if shards > 1 else None)
        with stream:
            assert stream._together() == max(1, together)
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
    assert (one.count, one.step, one.epoch, one.void) == (other.count, other.step, other.epoch, other.void)
    assert torch.equal(one.samples, other.samples)
    assert len(one.shards) == len(other.shards)
    for found, expected in zip(one.shards, other.shards, strict=True):
        assert (found.number, found.share) == (expected.number, expected.share)
        assert found.images.data_ptr() % 64 == expected.images.data_ptr() % 64 == 0  # as torch allocates
        assert found.images.is_contiguous(memory_format=memory_format)
        assert found.images.stride() == expected.images.stride()
        for name in ("images", "labels", "indices"):
            left, right = getattr(found, name), getattr(expected, name)
            assert left.dtype == right.dtype
            assert torch.equal(left, right)


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
        assert torch.equal(torch.cat([batch.images[: batch.share] for batch in shares]), alone.images)
        assert torch.equal(torch.cat([batch.labels[: batch.share] for batch in shares]), alone.labels)
        assert torch.equal(torch.cat([batch.indices for batch in shares]), alone.indices)
        assert torch.equal(dataset.train.labels[alone.indices], alone.labels)
        assert {batch.count for batch in shares} == {alone.count} == {alone.share}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_rank_without_samples_gets_a_stand_in(settings: Settings, root: Path, workers: int) -> None:
    """18 samples in batches of 17: the second batch is one sample, which rank 0 has."""
    write_images(root)
    config = settings("image_folder", augment=ALL, global_batch=17, loader="workers", workers=workers)
    dataset = opened(config)
    real = trained(dataset, config, World(rank=0, size=2), 0, 2)[1]
    empty = trained(dataset, config, World(rank=1, size=2), 0, 2)[1]
    assert (real.share, real.count, empty.share, empty.count) == (1, 1, 0, 1)
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
    for samples in (dataset.validation, dataset.test):
        both = [list(eval_batches(samples, dataset, config, World())) for config in (plain, augmented)]
        for one, other in zip(*both, strict=True):
            assert torch.equal(one.images, other.images)


@pytest.mark.parametrize("name", ["test", "validation"])
def test_eval_batches_are_dealt_out_whole(settings: Settings, name: str) -> None:
    config = settings("digits", validation=0.5)
    dataset = opened(config)
    samples = dataset.test if name == "test" else dataset.validation
    assert samples is not None
    alone = list(eval_batches(samples, dataset, config, World()))
    assert [len(batch.labels) for batch in alone] == [EVAL_BATCH] * (len(alone) - 1) + [len(samples) % EVAL_BATCH]
    assert torch.equal(torch.cat([batch.labels for batch in alone]), samples.labels)
    for size in (2, 3, 4):
        worlds = [World(rank=rank, size=size) for rank in range(size)]
        dealt = [batch for world in worlds for batch in eval_batches(samples, dataset, config, world)]
        dealt.sort(key=lambda batch: batch.number)
        assert [batch.number for batch in dealt] == list(range(len(alone)))
        assert all(torch.equal(one.images, other.images) for one, other in zip(dealt, alone, strict=True))


def test_eval_batches_by_workers_are_the_same(settings: Settings, root: Path) -> None:
    write_images(root, classes=2, each=300, size=(3, 3))
    resident, workers = settings("image_folder", loader="in_memory"), settings("image_folder", loader="workers")
    both = [list(eval_batches(opened(config).test, opened(config), config, World())) for config in (resident, workers)]
    assert [len(batch.labels) for batch in both[0]] == [250, 50]
    assert all(torch.equal(one.images, other.images) for one, other in zip(*both, strict=True))
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
    list(eval_batches(dataset.test, dataset, config, World()))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # type: ignore[index]


# Workers


@pytest.mark.parametrize("taken", [0, 1, 6])
def test_close_leaves_no_process_and_no_thread(settings: Settings, root: Path, taken: int) -> None:
    write_images(root)
    config = settings("image_folder", global_batch=3, loader="workers", workers=2)
    dataset = opened(config)
    threads = set(threading.enumerate())
    batches = TrainBatches(dataset, config, SEED, World(), 0, 6)
    for _ in range(taken):
        next(batches)
    batches.close()
    assert not multiprocessing.active_children()
    assert set(threading.enumerate()) == threads
    assert list(batches) == []
    batches.close()


def test_workers_use_one_thread_and_outlive_a_signal_to_the_group(settings: Settings, root: Path) -> None:
    write_images(root)
    config = settings("image_folder", global_batch=3, loader="workers", workers=1)
    with TrainBatches(opened(config), config, SEED, World(), 0, 6) as batches:
        next(batches)
        (worker,) = multiprocessing.active_children()
        assert worker.pid is not None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            os.kill(worker.pid, number)
        assert len(list(batches)) == 5


SCRIPT = """
import sys, time
from dist_train.settings.schema import StoredData
from dist_train.data import TrainBatches, open_dataset
from dist_train.distributed.world import World
root, cache, end = sys.argv[1:]
config = StoredData(name="image_folder", root=root, cache=cache, loader="workers", workers=2, global_batch=2)
batches = TrainBatches(open_dataset(config, 0, World()), config, 0, World(), 0, 9000)
next(batches)
print(*[worker.pid for worker in __import__("multiprocessing").active_children()], flush=True)
time.sleep(60) if end == "wait" else None
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["wait", "exit"])
def test_workers_end_with_their_rank(tmp_path: Path, root: Path, end: str) -> None:
    """Killed, or ended by an exit that closes nothing."""
    write_images(root)
    command = [sys.executable, "-c", SCRIPT, str(root), str(tmp_path / "cache"), end]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as rank:
        assert rank.stdout is not None
        workers = [int(pid) for pid in rank.stdout.readline().split()]
        assert len(workers) == 2
        if end == "wait":
            rank.kill()
        assert rank.wait(timeout=20) == (-signal.SIGKILL if end == "wait" else 0)
    deadline = time.monotonic() + 20
    while any(is_running(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_worker_that_starts_after_its_rank_was_killed_ends() -> None:
    with pytest.raises(SystemExit):
        reader._enter_worker(os.getpid(), 0)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# The cache


def entries(config: Data) -> dict[str, Path]:
    return {path.name.split("-")[1]: path for path in Path(config.cache).iterdir() if path.is_dir()}


@pytest.mark.slow
def test_a_warm_start_imports_no_decoder(settings: Settings, root: Path) -> None:
    write_idx(root)
    opened(settings("digits"))
    config = settings("mnist")
    opened(config)
    script = (
        "import sys; from dist_train.settings.schema import StoredData; from dist_train.data import open_dataset; "
        "from dist_train.distributed.world import World; root, cache = sys.argv[1:]; "
        "[open_dataset(StoredData(name=name, root=root, cache=cache), 0, World()) for name in ('mnist', 'digits')]; "
        "print({'torchvision', 'sklearn'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", script, config.root, config.cache]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "set()\n"


def test_nothing_is_written_into_root(settings: Settings, root: Path) -> None:
    write_images(root)
    write_idx(root)
    before = sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*"))
    for name in ("image_folder", "mnist"):
        opened(settings(name, root=str(root)))
    assert sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*")) == before


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip_a_byte, cut_short, Path.unlink])
@pytest.mark.parametrize("name", ["images.u8", "labels.i64", "meta.json"])
def test_a_damaged_entry_is_made_anew(
    settings: Settings, root: Path, name: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    write_idx(root)
    config = settings("mnist")
    expected = contents(opened(config))
    target = entries(config)["train"] / name
    damage(target)
    for _ in range(2):
        found = contents(opened(config))
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    is_missing = (name, damage) == ("meta.json", Path.unlink)  # without it the entry counts as missing
    assert warned == ([] if is_missing else [f"{target} is damaged and will be made anew"])
    assert sorted(path.name for path in Path(config.cache).iterdir() if path.name.startswith(".")) == []


def contents(dataset: Dataset) -> tuple[Tensor, Tensor]:
    return dataset.train.images.take(dataset.train.indices).clone(), dataset.train.labels.clone()


@pytest.fixture
def read_whole(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files of the cache that are read to compare them with their checksum, as it happens."""
    found: list[Path] = []
    original = cache_module._checksum

    def noted(path: Path) -> str:
        found.append(path)
        return original(path)

    monkeypatch.setattr(cache_module, "_checksum", noted)
    return found


def test_a_whole_entry_is_not_read_again(settings: Settings, root: Path, read_whole: list[Path]) -> None:
    write_idx(root)
    opened(settings("mnist"))
    read_whole.clear()
    opened(settings("mnist"))
    assert read_whole == []


def changed_behind_its_time(path: Path) -> None:
    """Another byte, and the time of before."""
    status = path.stat()
    flip_a_byte(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def exchanged(path: Path) -> None:
    """Another file of that name, size and time."""
    shutil.copy2(path, path.with_name("copy"))
    path.with_name("copy").replace(path)


def spoil_json(path: Path) -> None:
    path.with_name("checked.json").write_text("{")


@pytest.mark.parametrize("change", [Path.touch, changed_behind_its_time, exchanged, spoil_json])
def test_an_entry_that_looks_different_is_read_once(
    settings: Settings, root: Path, read_whole: list[Path], change: Callable[[Path], None]
) -> None:
    write_idx(root)
    config = settings("mnist")
    expected = contents(opened(config))
    images = entries(config)["train"] / "images.u8"
    change(images)
    read_whole.clear()
    for _ in range(2):
        assert all(torch.equal(one, other) for one, other in zip(contents(opened(config)), expected, strict=True))
    assert read_whole.count(images) == (3 if change is changed_behind_its_time else 1)  # and twice to mend it
    read_whole.clear()
    opened(config)
    assert read_whole == []


def test_a_copied_cache_is_read_once(settings: Settings, root: Path, tmp_path: Path, read_whole: list[Path]) -> None:
    write_idx(root)
    opened(settings("mnist"))
    shutil.copytree(tmp_path / "cache", tmp_path / "copy")
    for expected in (True, False):
        read_whole.clear()
        opened(settings("mnist", cache=str(tmp_path / "copy")))
        assert bool(read_whole) == expected


def test_an_entry_in_a_cache_that_cannot_be_written_is_read_at_each_start(
    settings: Settings, root: Path, read_whole: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_idx(root)
    config = settings("mnist")
    opened(config)
    for path in Path(config.cache).glob("*/checked.json"):
        path.unlink()

    @contextlib.contextmanager
    def refuse(*_: object) -> Iterator[None]:
        raise DataError("data.cache: cannot write")
        yield

    monkeypatch.setattr(cache_module, "lock", refuse)
    for _ in range(2):
        read_whole.clear()
        opened(config)
        assert {path.name for path in read_whole} == {"images.u8", "labels.i64"}


def test_damage_is_mended_under_ranks_that_have_opened_it(settings: Settings, root: Path) -> None:
    """Only local rank 0 compares the images with their checksum."""
    write_idx(root)
    config = settings("mnist")
    expected, _ = contents(opened(config))
    flip_a_byte(entries(config)["train"] / "images.u8")
    other = opened(config, World(rank=1, size=2, local_rank=1, local_size=2))
    assert not torch.equal(contents(other)[0], expected)
    opened(config, World(rank=0, size=2, local_rank=0, local_size=2))
    assert torch.equal(contents(other)[0], expected)


def test_damaged_statistics_are_computed_anew(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    config = settings("digits")
    expected = opened(config).normalize
    (statistics_file,) = Path(config.cache).glob("*.statistics.json")
    statistics_file.write_text(statistics_file.read_text().replace("0.", "1.", 1))
    assert opened(config).normalize == expected
    assert str(statistics_file) in caplog.text


def test_changed_files_are_another_entry(settings: Settings, root: Path) -> None:
    write_images(root)
    config = settings("image_folder")
    before = opened(config)
    Image.new("RGB", (10, 8), (1, 2, 3)).save(root / "train" / "class0" / "0.png")
    after = opened(config)
    assert before.normalize != after.normalize
    assert after.train.images.take(torch.tensor([0])).flatten(2)[0, :, 0].tolist() == [1, 2, 3]
    assert opened(settings("image_folder", resize=4)).shape == (3, 4, 4)


def test_an_unwritable_cache_is_named(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "set data.cache to a directory" in refusal(settings("digits", cache=str(tmp_path / "file" / "cache")))


def test_a_cache_without_room_says_why_and_keeps_no_part(settings: Settings) -> None:
    config = settings("digits")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, before[1]))  # bytes; the images have more
    try:
        said = refusal(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "data.cache: cannot write under" in said
    assert "File too large" in said
    assert [path.name for path in Path(config.cache).iterdir() if path.is_dir()] == []
    opened(config)


def open_in_process(config: Data, log: str, together: Barrier) -> None:
    logging.basicConfig(filename=log, level=logging.INFO, force=True)
    together.wait()
    opened(config)


@pytest.mark.slow
def test_concurrent_processes_decode_once(settings: Settings, root: Path, tmp_path: Path) -> None:
    write_images(root, each=200)
    config, log = settings("image_folder", loader="in_memory"), tmp_path / "log"
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(3)
    processes = [context.Process(target=open_in_process, args=(config, str(log), together)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert log.read_text().count("decoding image_folder-train") == 1
    assert log.read_text().count("decoding image_folder-test") == 1


def test_a_process_that_waits_says_so(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cache_module, "PATIENCE", 0.05)
    caplog.set_level(logging.INFO, "dist_train.data")
    config = settings("digits")
    Path(config.cache).mkdir()
    with (Path(config.cache) / "digits.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        timer = threading.Timer(0.3, lambda: fcntl.flock(other, fcntl.LOCK_UN))
        timer.start()
        opened(config)
        timer.join()
    assert "waiting for another process that downloads or decodes digits" in caplog.text


@pytest.mark.parametrize("is_terminal", [True, False])
def test_decoding_shows_how_far_it_is_on_a_terminal_only(
    settings: Settings, root: Path, is_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(root)
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: is_terminal, raising=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    opened(settings("image_folder"))
    assert ("decoding:   0%|" in terminal.getvalue()) == is_terminal
    assert bool(terminal.getvalue()) == is_terminal


def test_workers_decode_nothing_ahead(settings: Settings, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(root)
    config = settings("image_folder", loader="workers", normalize=Normalize(mean=(0.5,) * 3, std=(0.2,) * 3))
    decoded: list[str] = []
    original = image_folder._decode

    def recorded(path: str, side: int | None) -> np.ndarray[Any, np.dtype[np.uint8]]:
        decoded.append(path)
        return original(path, side)

    monkeypatch.setattr(image_folder, "_decode", recorded)
    dataset = opened(config)
    assert dataset.loader == "workers"
    assert len(decoded) == 2  # the first of each split, for the shape
    assert not Path(config.cache).exists()


def test_auto_is_resident_where_it_fits(settings: Settings, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(root)
    size = (18 + 9) * 3 * 8 * 10
    for available, loader in ((2 * size, "in_memory"), (2 * size - 1, "workers")):
        monkeypatch.setattr(memory, "host_bytes", lambda available=available: available)
        assert opened(settings("image_folder")).loader == loader


def test_memory_is_limited_by_control_groups(tmp_path: Path) -> None:
    assert 0 < memory.host_bytes() < 2**50
    (tmp_path / "job" / "step").mkdir(parents=True)
    (tmp_path / "job" / "memory.max").write_text("12345\n")
    (tmp_path / "job" / "step" / "memory.max").write_text("max\n")
    assert memory._along(tmp_path, "/job/step", "memory.max") == [12345]


# Bad files


def test_missing_files_are_named(settings: Settings, root: Path) -> None:
    (write_idx(root) / "t10k-labels-idx1-ubyte").unlink()
    message = refusal(settings("mnist"))
    assert message == (
        f"data.name mnist: {root}/MNIST/raw lacks t10k-labels-idx1-ubyte, and data.download is off. Put the files "
        "there, or set data.root (or the variable DIST_TRAIN_DATA) to the directory that holds MNIST/raw"
    )
    message = refusal(settings("cifar10"))
    assert "data_batch_1, data_batch_2" in message
    assert "batches.meta, and data.download is off" in message


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
@pytest.mark.parametrize("left", [0, 3, 7, 12, 40])
def test_truncated_idx(settings: Settings, root: Path, name: str, left: int) -> None:
    path = write_idx(root) / name
    path.write_bytes(path.read_bytes()[: left if left < path.stat().st_size else -1])
    message = refusal(settings("mnist"))
    assert message.startswith(f"{path}: has ")
    assert "Delete it" in message


def test_idx_files_that_do_not_belong_together(settings: Settings, root: Path, tmp_path: Path) -> None:
    folder, other = write_idx(root), write_idx(tmp_path / "other", train=7)
    shutil.copy(other / "train-labels-idx1-ubyte", folder)
    message = refusal(settings("mnist"))
    assert f"{folder / 'train-images-idx3-ubyte'} holds 12 and" in message
    assert f"{folder / 'train-labels-idx1-ubyte'} holds 7 samples" in message


def test_labels_out_of_range(settings: Settings, root: Path) -> None:
    path = write_idx(root) / "train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + bytes([10]))
    assert refusal(settings("mnist")).startswith(f"{path}: holds labels from 0 to 10, but there are 10 classes")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "no readable pickle"),
        (b"\x80\x04garbage", "no readable pickle"),
        (pickle.dumps([1, 2]), "holds no dictionary"),
        (pickle.dumps({"labels": [1]}), "no rows of 3072 bytes"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}), "no list of 2 numbers"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1, 77]}), "labels from 1 to 77"),
        (pickle.dumps({"data": np.zeros((0, 3072), np.uint8), "labels": []}), "holds no samples"),
        (pickle.dumps({"data": Path("/")}), "is not allowed in a file of data"),
    ],
)
def test_bad_cifar_batches(settings: Settings, root: Path, content: bytes, complaint: str) -> None:
    path = write_cifar(root) / "data_batch_3"
    path.write_bytes(content)
    message = refusal(settings("cifar10"))
    assert message.startswith(f"{path}: ")
    assert complaint in message


def test_truncated_cifar_batch(settings: Settings, root: Path) -> None:
    path = write_cifar(root) / "test_batch"
    path.write_bytes(path.read_bytes()[:-100])
    assert refusal(settings("cifar10")).startswith(f"{path}: it is no readable pickle")


class _Bomb:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch exploded",)


def test_a_pickle_runs_no_code(settings: Settings, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_cifar(root, filenames=_Bomb())
    assert "system is not allowed" in refusal(settings("cifar10"))
    assert not (tmp_path / "exploded").exists()


def break_folders(root: Path, what: str) -> Path:
    """Break one thing in the layout; returns the path that has to be named."""
    victim = {"split": root / "test", "no_class": root / "train", "class": root / "test" / "class2"}.get(
        what, root / "train" / "class1"
    )
    shutil.rmtree(victim)
    if what in ("no_class", "empty"):
        victim.mkdir()
        (victim / "readme.txt").write_text("")
    if what == "one_sided":
        return victim.parent.parent / "test" / "class1"
    return victim


@pytest.mark.parametrize(
    ("what", "complaint"),
    [
        ("split", "is no folder; data.root must hold train/<class>/"),
        ("no_class", "holds no folder of a class"),
        ("empty", "holds no image (.jpg"),
        ("one_sided", "train and test hold different classes"),
    ],
)
def test_bad_folders(settings: Settings, root: Path, what: str, complaint: str) -> None:
    write_images(root)
    named = break_folders(root, what)
    message = refusal(settings("image_folder"))
    assert complaint in message
    assert str(named) in message


@pytest.mark.parametrize(
    "kind", [{"loader": "in_memory"}, {"loader": "workers", "workers": 0}, {"loader": "workers", "workers": 2}]
)
@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\nxxxx", None])
def test_a_corrupt_image_is_named(settings: Settings, root: Path, kind: dict[str, Any], content: bytes | None) -> None:
    """Also where a worker finds it; None: the file is cut in the middle."""
    write_images(root)
    path = root / "train" / "class2" / "4.png"
    path.write_bytes(path.read_bytes()[:200] if content is None else content)
    given = Normalize(mean=(0.5,) * 3, std=(0.2,) * 3)
    message = refusal(settings("image_folder", normalize=given, **kind))
    assert message.startswith(f"{path}: is not a readable image (")
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("loader", ["in_memory", "workers"])
def test_images_of_different_sizes(settings: Settings, root: Path, loader: str) -> None:
    write_images(root)
    path = root / "train" / "class1" / "2.png"
    Image.new("RGB", (30, 20)).save(path)
    message = refusal(settings("image_folder", loader=loader))
    first = root / "train" / "class0" / "0.png"
    assert message.startswith(f"{path} is 30x20 and {first} is 10x8 pixels (width x height); set data.resize")
    assert opened(settings("image_folder", loader=loader, resize=8)).shape == (3, 8, 8)


def test_test_images_of_another_size(settings: Settings, root: Path, tmp_path: Path) -> None:
    write_images(root)
    write_images(tmp_path / "other", size=(5, 5))
    shutil.rmtree(root / "test")
    shutil.move(tmp_path / "other" / "test", root / "test")
    message = refusal(settings("image_folder"))
    assert "8 x 10 pixels (height x width), of test 3 channels, 5 x 5" in message
    assert "set data.resize" in message


def test_a_dangling_link_is_named(settings: Settings, root: Path) -> None:
    write_images(root)
    link = root / "train" / "class0" / "link.png"
    link.symlink_to(root / "nowhere.png")
    assert str(link) in refusal(settings("image_folder"))


# Downloads


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", fail)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(("name", "folder"), [("kmnist", "KMNIST/raw"), ("cifar100", "cifar-100-python")])
def test_no_network(settings: Settings, tmp_path: Path, name: str, folder: str) -> None:
    """The root is made, nothing stays in it, and the message says where the files belong."""
    message = refusal(settings(name, download=True))
    assert message.startswith(f"data.name {name}: {tmp_path}/root/{folder} lacks t")
    assert "and they could not be downloaded (" in message
    assert "no route to host" in message
    assert f"DIST_TRAIN_DATA) to the directory that holds {folder}" in message
    assert list((tmp_path / "root").iterdir()) == []
    assert socket.getdefaulttimeout() is None


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small CIFAR-10 in the place of the original, behind an address of this machine."""
    from torchvision.datasets import CIFAR10

    folder = write_cifar(tmp_path / "server")
    path = tmp_path / "server" / "small.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, folder.name)
    md5 = {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in folder.iterdir()}  # noqa: S324
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(path.read_bytes()).hexdigest())  # noqa: S324
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5["batches.meta"]})
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5[name]] for name in LAYOUTS["cifar10"].batches["train"]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    handler = partial(SilentHandler, directory=str(path.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/{path.name}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield path
        server.shutdown()
        thread.join()


class SilentHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_download_leaves_the_files_and_nothing_else(
    settings: Settings, tmp_path: Path, archive: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert archive.exists()
    dataset = opened(settings("cifar10", download=True))
    assert (len(dataset.train), len(dataset.test)) == (20, 4)
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["cifar-10-batches-py"]
    assert len(list((tmp_path / "root" / "cifar-10-batches-py").iterdir())) == 7
    assert "not the original" not in caplog.text


def test_only_one_process_downloads(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds the lock meanwhile."""

    def deliver(_: object, config: Data, folder: Path) -> None:
        with (Path(config.cache) / "mnist.lock").open("r+") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        write_idx(folder.parent.parent)

    monkeypatch.setattr(download, "_download", deliver)
    assert len(opened(settings("mnist", download=True)).train) == 12


def test_a_damaged_download_leaves_nothing(settings: Settings, tmp_path: Path, archive: Path) -> None:
    archive.write_bytes(gzip.compress(b"half a file"))
    assert "could not be downloaded" in refusal(settings("cifar10", download=True))
    assert list((tmp_path / "root").iterdir()) == []


# The real data


@pytest.fixture
def real(request: pytest.FixtureRequest) -> str:
    """The directory in DIST_TRAIN_DATA, if the data set `request.param` is in it."""
    place = os.environ.get("DIST_TRAIN_DATA")
    if not place:
        pytest.skip("DIST_TRAIN_DATA is not set")
    if not (Path(place) / request.param).is_dir():
        pytest.skip(f"DIST_TRAIN_DATA={place} holds no {request.param}")
    return place


@pytest.mark.slow
@pytest.mark.parametrize("real", ["MNIST/raw"], indirect=True)
def test_real_mnist(settings: Settings, real: str) -> None:
    config = settings("mnist", root=real)
    dataset = opened(config)
    assert (len(dataset.train), len(dataset.test), dataset.shape) == (60000, 10000, (1, 28, 28))
    assert torch.bincount(dataset.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert_known(dataset, "mnist", 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("real", ["cifar-10-batches-py"], indirect=True)
def test_real_cifar10(settings: Settings, real: str) -> None:
    dataset = opened(settings("cifar10", root=real))
    assert (len(dataset.train), len(dataset.test), dataset.shape) == (50000, 10000, (3, 32, 32))
    assert torch.bincount(dataset.train.labels).tolist() == [5000] * 10
    assert dataset.classes[0] == "airplane"
    assert_known(dataset, "cifar10", 3e-3)  # the images may have been through JPEG


def assert_known(dataset: Dataset, name: str, tolerance: float) -> None:
    computed = statistics.computed(dataset.train.images)
    known = statistics.KNOWN[name]
    np.testing.assert_allclose(computed["mean"], known.mean, atol=tolerance)
    np.testing.assert_allclose(computed["std"], known.std, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("real", ["cifar10-images"], indirect=True)
def test_real_image_folder(settings: Settings, real: str) -> None:
    config = settings(
        "image_folder", root=f"{real}/cifar10-images", loader="workers", global_batch=128, limit_test=600,
        normalize=statistics.KNOWN["cifar10"],
    )  # fmt: skip
    dataset = opened(config)
    assert (len(dataset.train), len(dataset.test), dataset.shape) == (50000, 600, (3, 32, 32))
    assert torch.bincount(dataset.test.labels).tolist() == [60] * 10
    batches = trained(dataset, config, World(), 390, 392)
    assert [(batch.count, batch.epoch) for batch in batches] == [(80, 0), (128, 1)]
    first = Image.open(io.BytesIO(Path(image_path(dataset, batches[0])).read_bytes()))
    pixels = torch.from_numpy(np.asarray(first).transpose(2, 0, 1).copy()) / 255
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (dataset.normalize.mean, dataset.normalize.std))
    torch.testing.assert_close(batches[0].images[0], (pixels - mean) / std, atol=1e-5, rtol=0)


def image_path(dataset: Dataset, batch: Trained) -> str:
    images = dataset.train.images
    assert isinstance(images, image_folder.ImageFiles)
    return images.paths[int(batch.indices[0])]
