"""Mean and standard deviation of each channel: published ones, or computed exactly."""

import math
from typing import Any

import numpy as np
from torch import Tensor

from dist_train.data.samples import Images
from dist_train.settings.schema import Normalize

KNOWN = {
    "mnist": Normalize(mean=(0.1307,), std=(0.3081,)),
    "fashion_mnist": Normalize(mean=(0.2860,), std=(0.3530,)),
    "kmnist": Normalize(mean=(0.1904,), std=(0.3475,)),
    "cifar10": Normalize(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
    "cifar100": Normalize(mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762)),
}
"""Mean and std of the training splits, as commonly published."""

Histogram = np.ndarray[Any, np.dtype[np.int64]]


def compute(images: Images) -> dict[str, list[float]]:
    """Compute `mean` and `std` of each channel over all images, scaled to 0..1; raises DataError.

    From integer counts of the 256 values, so that the result is exact for any order and number of images.
    """
    counts = np.zeros((images.shape[0], 256), dtype=np.int64)
    for piece in images.pieces():
        counts += count_values(piece)
    moments = [compute_moments(channel.tolist()) for channel in counts]
    # A constant channel has nothing to scale; 1 leaves it at 0 after the mean is subtracted.
    return {"mean": [mean for mean, _ in moments], "std": [std or 1.0 for _, std in moments]}


def count_values(images: Tensor) -> Histogram:
    """Count the values in each channel: uint8 [N, C, H, W] -> int64 [C, 256]."""
    channels = images.transpose(0, 1).flatten(1).numpy()
    return np.stack([np.bincount(channel, minlength=256) for channel in channels])


def compute_moments(counts: list[int]) -> tuple[float, float]:
    """Compute mean and standard deviation, scaled to 0..1, from the counts of the 256 values."""
    number = sum(counts)
    first = sum(value * count for value, count in enumerate(counts))
    second = sum(value * value * count for value, count in enumerate(counts))
    deviation = math.sqrt(number * second - first * first) / number / 255
    return first / number / 255, deviation
