"""CIFAR-10 and CIFAR-100: reading, and messages for damaged files."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dist_train.data.datasets.cifar import LAYOUTS
from tests.unit.dist_train.data.files import (
    Settings,
    assert_known,
    held_out,
    images_of,
    labels_of,
    opened,
    refusal,
    write_cifar,
)


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
    assert np.array_equal(
        images_of(dataset.train).take(dataset.train.indices[-4:]).numpy().reshape(4, -1), last["data"]
    )
    assert labels_of(dataset.train)[-4:].tolist() == last[LAYOUTS[name].labels]
    assert dataset.classes[3] == "name3"
    assert f"these are not the original {LAYOUTS[name].loader} files" in caplog.text


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "not a readable pickle"),
        (b"\x80\x04garbage", "not a readable pickle"),
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
    assert refusal(settings("cifar10")).startswith(f"{path}: it is not a readable pickle")


class _Bomb:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch exploded",)


def test_a_pickle_runs_no_code(settings: Settings, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_cifar(root, filenames=_Bomb())
    assert "system is not allowed" in refusal(settings("cifar10"))
    assert not (tmp_path / "exploded").exists()


@pytest.mark.slow
@pytest.mark.parametrize("real", ["cifar-10-batches-py"], indirect=True)
def test_real_cifar10(settings: Settings, real: str) -> None:
    dataset = opened(settings("cifar10", root=real))
    assert (len(dataset.train), len(held_out(dataset)), dataset.shape) == (50000, 10000, (3, 32, 32))
    assert torch.bincount(labels_of(dataset.train)).tolist() == [5000] * 10
    assert dataset.classes[0] == "airplane"
    assert_known(dataset, "cifar10", 3e-3)  # the images may have been through JPEG
