"""The 1797 handwritten digits that come with scikit-learn: no files and no network."""

import torch
from torch import Tensor

from dist_train.data.source import NO_FILES, DecodedSplit, SplitSource, resize
from dist_train.settings.schema import ImageData

SIDE = 28
"""Pixels of the enlarged images, like MNIST's."""
EVERY = 5
"""One in so many samples of each class is a test sample."""


def find(config: ImageData, split: str, seed: int) -> SplitSource:  # noqa: ARG001
    """Describe one split; no files are needed."""
    return SplitSource(NO_FILES, lambda: _read(config, split), (torch.__version__,))


def _read(config: ImageData, split: str) -> DecodedSplit:
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = torch.from_numpy(digits.target).to(torch.int64)
    chosen = _mark_test_samples(labels) if split == "test" else ~_mark_test_samples(labels)
    # 0 to 16 in the source
    small = torch.from_numpy(digits.images)[:, None].mul(255 / 16).round().to(torch.uint8)
    images = resize(resize(small[chosen], SIDE), config.resize)
    return DecodedSplit(images, labels[chosen], tuple(str(name) for name in digits.target_names))


def _mark_test_samples(labels: Tensor) -> Tensor:
    """Mark every fifth sample of each class, bool [N], so that both splits have the same class balance at any seed."""
    of_class = torch.nn.functional.one_hot(labels)
    nth = of_class.cumsum(0)[torch.arange(len(labels)), labels]
    return nth % EVERY == 0
