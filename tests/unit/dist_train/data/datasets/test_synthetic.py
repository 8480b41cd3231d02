"""Synthetic images."""

from typing import Any

import pytest
import torch

from dist_train.data import open_dataset
from dist_train.distributed.world import World
from dist_train.errors import DataError
from tests.unit.dist_train.data.files import Settings, held_out, images_of


def test_synthetic_depends_on_the_seed(settings: Settings) -> None:
    config = settings("synthetic", shape=(3, 6, 5), num_classes=4, num_train=50, num_test=20)
    one, same, other = (open_dataset(config, seed, World()) for seed in (0, 0, 1))
    pixels = [images_of(dataset.train).take(torch.arange(50)) for dataset in (one, same, other)]
    assert one.shape == (3, 6, 5)
    assert (len(one.train), len(held_out(one)), one.classes) == (50, 20, ("0", "1", "2", "3"))
    assert torch.equal(pixels[0], pixels[1])
    assert not torch.equal(pixels[0], pixels[2])
    assert not torch.equal(pixels[0][:20], images_of(held_out(one)).take(torch.arange(20)))


@pytest.mark.parametrize(
    "values",
    [
        {"num_train": 10**8},
        {"num_test": 10**8},
        {"shape": (10**4, 10**4, 10**4)},
        {"num_classes": 10**5, "num_train": 1, "shape": (3, 200, 200)},
    ],
)
def test_images_that_no_memory_holds_are_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any]
) -> None:
    monkeypatch.setattr("dist_train.data.memory.host_bytes", lambda: 2 * 10**9)
    with pytest.raises(DataError, match=r"GB of memory, and 2\.0 GB are available"):
        open_dataset(settings("synthetic", **values), 0, World())
