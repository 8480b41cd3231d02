"""MNIST and the sets in its format: reading, and messages for damaged files."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dist_train.data import statistics
from tests.unit.dist_train.data.files import (
    Settings,
    assert_known,
    held_out,
    images_of,
    labels_of,
    opened,
    refusal,
    write_idx,
)


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
def test_idx_files(settings: Settings, root: Path, name: str, folder: str) -> None:
    raw = write_idx(root, folder)
    dataset = opened(settings(name))
    stored = np.frombuffer((raw / "t10k-images-idx3-ubyte").read_bytes()[16:], np.uint8).reshape(5, 1, 28, 28)
    assert np.array_equal(images_of(held_out(dataset)).take(torch.arange(5)).numpy(), stored)
    assert labels_of(dataset.train).tolist() == [*range(10), 0, 1]
    assert len(dataset.classes) == 10
    assert dataset.normalize == statistics.KNOWN[name]


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


@pytest.mark.slow
@pytest.mark.parametrize("real", ["MNIST/raw"], indirect=True)
def test_real_mnist(settings: Settings, real: str) -> None:
    config = settings("mnist", root=real)
    dataset = opened(config)
    assert (len(dataset.train), len(held_out(dataset)), dataset.shape) == (60000, 10000, (1, 28, 28))
    assert torch.bincount(labels_of(held_out(dataset))).tolist() == [
        980,
        1135,
        1032,
        1010,
        982,
        892,
        958,
        1028,
        974,
        1009,
    ]
    assert_known(dataset, "mnist", 1e-4)
