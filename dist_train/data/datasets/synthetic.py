"""Random images for tests: each class has a pattern, and a sample is its pattern with noise."""

import math
from functools import partial

import torch
from torch.nn import functional

from dist_train import seeds
from dist_train.data.memory import check_memory
from dist_train.data.source import NO_FILES, SCALING, DecodedSplit, SplitSource, resize
from dist_train.settings.schema import ImageData, SyntheticData

COARSE = 4
"""Cells of a pattern along a side: coarse enough for a convolution to see."""
NOISE = 0.25
"""Standard deviation of the noise, in the unit of images scaled to 0..1."""


def find(config: ImageData, split: str, seed: int) -> SplitSource:
    """Describe one split; no files are needed."""
    assert isinstance(config, SyntheticData)  # noqa: S101
    count = config.num_train if split == "train" else config.num_test
    _check_memory(config, count)
    versions = (seed, config.shape, config.num_classes, count, torch.__version__, *([SCALING] if config.resize else []))
    return SplitSource(NO_FILES, partial(_read, config, split, count, seed), versions)


def _check_memory(config: SyntheticData, count: int) -> None:
    """Raise DataError if the images can't be generated in the memory of this machine."""
    shape = "x".join(map(str, config.shape))
    needed = (3 * count + config.num_classes) * math.prod(config.shape) * 4  # bytes: patterns, noise, their sum
    check_memory(needed, f"data.shape, data.num_train, data.num_test, data.num_classes: {count:,} images of {shape}")


def _read(config: SyntheticData, split: str, count: int, seed: int) -> DecodedSplit:
    channels, height, width = config.shape
    cells = torch.rand(config.num_classes, channels, COARSE, COARSE, generator=seeds.generator(seed, "patterns"))
    patterns = functional.interpolate(cells, (height, width), mode="bilinear")
    generator = seeds.generator(seed, f"synthetic-{split}")
    labels = torch.randint(config.num_classes, (count,), generator=generator)
    noise = torch.randn(count, *config.shape, generator=generator) * NOISE
    images = ((patterns[labels] + noise) * 255).round_().clamp_(0, 255).to(torch.uint8)
    return DecodedSplit(
        resize(images, config.resize), labels, tuple(str(number) for number in range(config.num_classes))
    )
