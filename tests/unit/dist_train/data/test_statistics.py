"""Mean and standard deviation of each channel."""

from pathlib import Path

import numpy as np
import torch

from dist_train.data import statistics
from dist_train.data.samples import InMemoryImages
from tests.unit.dist_train.data.files import Settings, images_of, opened, write_images


def test_statistics_are_those_of_the_whole_train_split(settings: Settings, root: Path) -> None:
    write_images(root)
    dataset = opened(settings("image_folder", limit_train=2))
    assert dataset.normalize
    pixels = images_of(dataset.train).take(torch.arange(18)).numpy() / 255
    np.testing.assert_allclose(dataset.normalize.mean, pixels.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(dataset.normalize.std, pixels.std((0, 2, 3)), rtol=1e-12)


def test_a_constant_channel_is_not_divided_by_zero() -> None:
    found = statistics.compute(InMemoryImages(torch.full((5, 1, 2, 2), 51, dtype=torch.uint8)))
    assert found == {"mean": [0.2], "std": [1.0]}
