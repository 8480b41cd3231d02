"""The digits of scikit-learn."""

import torch

from dist_train.data import open_dataset
from dist_train.distributed.world import World
from tests.unit.dist_train.data.files import Settings, held_out


def test_digits_split_is_stratified_and_fixed(settings: Settings) -> None:
    first, second = (open_dataset(settings("digits"), seed, World()) for seed in (0, 1))
    assert first.shape == (1, 28, 28)
    assert len(first.train) + len(held_out(first)) == 1797
    assert torch.equal(held_out(first).labels, held_out(second).labels)
    everywhere = torch.bincount(torch.cat([first.train.labels, held_out(first).labels]))
    assert torch.equal(torch.bincount(held_out(first).labels), everywhere // 5)
    pixels = first.train.images.take(torch.arange(100))
    assert int(pixels.min()) == 0
    assert int(pixels.max()) == 255
