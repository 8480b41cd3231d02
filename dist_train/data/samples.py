"""What a data set is once it is open: images, labels, and which of them belong to a split."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from dist_train.settings.schema import Normalize

Shape = tuple[int, int, int]
"""Channels, height and width."""


class Images(Protocol):
    """The images of one split of the files, by their number in it, all of one shape."""

    @property
    def shape(self) -> Shape:
        """Channels, height and width of each image."""

    def __len__(self) -> int:
        """How many there are."""

    def take(self, indices: Tensor) -> Tensor:
        """The images of these numbers.

        Args:
            indices: int32 or int64 [B].

        Returns:
            uint8 [B, C, H, W].

        Raises:
            DataError: a file does not hold a image of the common shape.
        """

    def pieces(self) -> Iterator[Tensor]:
        """All images in order, uint8 [<=1024, C, H, W] at a time; raises DataError as `take` does."""


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device, without waiting for a GPU: the copy is from pinned memory."""
    if device.type == "cpu" or tensor.device == device:
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


PIECE = 1024
"""Images that are handled at a time where all of them are."""


@dataclass(frozen=True)
class InMemoryImages:
    """Images in memory, on any device."""

    tensor: Tensor
    """uint8 [N, C, H, W]."""

    @property
    def shape(self) -> Shape:
        """Channels, height and width of each image."""
        _, channels, height, width = self.tensor.shape
        return channels, height, width

    def __len__(self) -> int:
        return len(self.tensor)

    def take(self, indices: Tensor) -> Tensor:
        """The images of these numbers, int32 or int64 [B], as uint8 [B, C, H, W] on the device of the tensor."""
        return self.tensor.index_select(0, to_device(indices, self.tensor.device))

    def pieces(self) -> Iterator[Tensor]:
        """All images in order, a piece at a time."""
        return iter(torch.split(self.tensor, PIECE))


@dataclass(frozen=True)
class Samples:
    """Some samples of one split."""

    split: Literal["train", "validation", "test"]
    chosen: Tensor | None
    """int64 [N], ascending: numbers of the samples in the split of the files; None where all of it is used, so that
    no rank holds millions of numbers that count up. Samples of `validation` are numbered in the training split, from
    which they were taken."""
    labels: Tensor
    """int64 [N], in the order of the samples."""
    images: Images
    """The whole split of the files."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def indices(self) -> Tensor:
        """int64 [N]: numbers of all samples in the split of the files; made anew at each call where all are used."""
        return torch.arange(len(self)) if self.chosen is None else self.chosen

    def numbers(self, positions: Tensor) -> Tensor:
        """int64 [B]: numbers, in the split of the files, of the samples at these positions, int32 or int64 [B].

        Random augmentation is keyed by them.
        """
        return positions.to(torch.int64) if self.chosen is None else self.chosen.index_select(0, positions)

    def images_at(self, positions: Tensor) -> Tensor:
        """Images of the samples at these positions, uint8 [B, C, H, W]; raises DataError as `Images.take`."""
        return self.images.take(self.numbers(positions))


@dataclass(frozen=True)
class Dataset:
    """An open data set."""

    train: Samples
    validation: Samples | None
    test: Samples
    shape: Shape
    """Channels, height and width of a image as the model gets it."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of the labels."""
    normalize: Normalize
    """The mean and std in use, one number a channel."""
    loader: Literal["in_memory", "workers"]
    """What `data.loader` comes to on this machine."""
