"""Data sets of some samples on disk, and how tests open and read them."""

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dist_train.data import Batch, Dataset, Samples, TrainBatches, eval_batches, open_dataset, statistics
from dist_train.data.datasets.cifar import LAYOUTS
from dist_train.data.samples import Images, LabelledImages
from dist_train.distributed.world import World
from dist_train.errors import DataError
from dist_train.settings.schema import Augment, ImageData

SEED = 3


ALL = Augment(crop_padding=2, flip=True, cutout=3)


Settings = Callable[..., ImageData]


def opened(config: ImageData, world: World | None = None) -> Dataset:
    return open_dataset(config, SEED, world or World())


def held_out(dataset: Dataset) -> Samples:
    assert dataset.test
    return dataset.test


def images_of(samples: Samples) -> Images:
    """All images of the split of the files."""
    assert isinstance(samples.source, LabelledImages)
    return samples.source.images


def labels_of(samples: Samples) -> Tensor:
    """The labels of the samples, in their order."""
    assert isinstance(samples.source, LabelledImages)
    return samples.source.labels[samples.indices]


@dataclass(frozen=True)
class Trained:
    """A batch and its only shard."""

    images: Tensor
    labels: Tensor
    num_samples: int
    indices: torch.Tensor
    count: int
    step: int
    epoch: int


def flat(batch: Batch) -> Trained:
    (shard,) = batch.shards
    (whole,) = shard.passes
    return Trained(whole.inputs, whole.targets, shard.num_samples, shard.indices, batch.count, batch.step, batch.epoch)


def trained(dataset: Dataset, config: ImageData, world: World, start: int, stop: int) -> list[Trained]:
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


def refusal(config: ImageData) -> str:
    """What is said when the data are opened, or else when they are read."""

    def read_all() -> None:
        dataset = opened(config)
        trained(dataset, config, World(), 0, 1)
        list(eval_batches(held_out(dataset), dataset, config, World()))

    with pytest.raises(DataError) as caught:
        read_all()
    return str(caught.value)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def assert_known(dataset: Dataset, name: str, tolerance: float) -> None:
    computed = statistics.compute(images_of(dataset.train))
    known = statistics.KNOWN[name]
    np.testing.assert_allclose(computed["mean"], known.mean, atol=tolerance)
    np.testing.assert_allclose(computed["std"], known.std, atol=tolerance)
