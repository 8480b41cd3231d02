"""Synthetic images."""

import torch

from dist_train.data import open_dataset
from dist_train.distributed.world import World
from tests.unit.dist_train.data.files import Settings


def test_synthetic_depends_on_the_seed(settings: Settings) -> None:
    config = settings("synthetic", shape=(3, 6, 5), num_classes=4, num_train=50, num_test=20)
    one, same, other = (open_dataset(config, seed, World()) for seed in (0, 0, 1))
    pixels = [dataset.train.images.take(torch.arange(50)) for dataset in (one, same, other)]
    assert one.shape == (3, 6, 5)
    assert (len(one.train), len(one.test), one.classes) == (50, 20, ("0", "1", "2", "3"))
    assert torch.equal(pixels[0], pixels[1])
    assert not torch.equal(pixels[0], pixels[2])
    assert not torch.equal(pixels[0][:20], one.test.images.take(torch.arange(20)))
