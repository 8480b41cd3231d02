"""The digits of scikit-learn."""

import torch

from dist_train.data import open_dataset
from dist_train.distributed.world import World
from tests.unit.dist_train.data.files import Settings, held_out, images_of, labels_of


def test_digits_split_is_stratified_and_fixed(settings: Settings) -> None:
    first, second = (open_dataset(settings("digits"), seed, World()) for seed in (0, 1))
    assert first.shape == (1, 28, 28)
    assert len(first.train) + len(held_out(first)) == 1797
    assert torch.equal(labels_of(held_out(first)), labels_of(held_out(second)))
    everywhere = torch.bincount(torch.cat([labels_of(first.train), labels_of(held_out(first))]))
    assert torch.equal(torch.bincount(labels_of(held_out(first))), everywhere // 5)
    pixels = images_of(first.train).take(torch.arange(100))
    assert int(pixels.min()) == 0
    assert int(pixels.max()) == 255
