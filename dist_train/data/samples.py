"""An open data set: its images and labels, and which of them belong to each split."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from dist_train.data.identity import DataIdentity
from dist_train.nest import Nest
from dist_train.settings.schema import Normalize

Shape = tuple[int, int, int]
"""Channels, height and width."""
SplitName = Literal["train", "validation", "test"]


class Images(Protocol):
    """The images of one split of the files, by number, all of one shape."""

    @property
    def shape(self) -> Shape:
        """Channels, height and width of each image."""

    def __len__(self) -> int:
        """Number of images."""

    def take(self, indices: Tensor) -> Tensor:
        """Read the images of these numbers.

        Args:
            indices: int64 [B].

        Returns:
            uint8 [B, C, H, W].

        Raises:
            DataError: a file does not hold an image of the common shape.
        """

    def pieces(self) -> Iterator[Tensor]:
        """All images in order, uint8 [<=1024, C, H, W] at a time; raises DataError as `take` does."""


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device, without waiting for a GPU: the copy is from pinned memory."""
    if device.type == "cpu" or tensor.device == device:
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


PIECE = 1024
"""Images per piece where all images are read in order."""


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
        """The images of these numbers, int64 [B], as uint8 [B, C, H, W] on the device of the tensor."""
        return self.tensor.index_select(0, to_device(indices, self.tensor.device))

    def pieces(self) -> Iterator[Tensor]:
        """All images in order, a piece at a time."""
        return iter(torch.split(self.tensor, PIECE))


class Source(Protocol):
    """The samples of one split of the data, by number."""

    @property
    def device(self) -> torch.device:
        """Where `take` returns tensors."""

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample as `take` returns it."""

    @property
    def labels(self) -> Tensor | None:
        """Number of the class of each sample, int64 [N]; None if it is not known without reading them."""

    @property
    def weights(self) -> Tensor | None:
        """How likely each sample is drawn with `data.sampling: weighted`, float64 [N]; None if that is not known."""

    def __len__(self) -> int:
        """Number of samples."""

    def take(self, numbers: Tensor, epoch: int, sizes: Sequence[int]) -> list[Nest]:
        """Read the samples of these numbers, int64 [B], as they are in this epoch.

        Args:
            sizes: samples in each of the passes that get them, in order; their sum is B.

        Returns:
            (inputs, targets) of all samples, each a nest of tensors whose first dimension is B; or one such pair for
            each pass, where samples of two passes may differ in shape.

        Raises:
            DataError: a sample can't be read.
        """


@dataclass(frozen=True)
class LabelledImages:
    """Images and the numbers of their classes: the samples of one split of a data set of images."""

    images: Images
    labels: Tensor
    """int64 [N]."""

    @property
    def device(self) -> torch.device:
        """Where `take` returns images."""
        return self.images.tensor.device if isinstance(self.images, InMemoryImages) else torch.device("cpu")

    @property
    def weights(self) -> None:
        """There are none."""
        return

    @property
    def sample_bytes(self) -> int:
        """Bytes of an image and its label."""
        return math.prod(self.images.shape) + self.labels.element_size()

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, numbers: Tensor, epoch: int, sizes: Sequence[int]) -> list[Nest]:  # noqa: ARG002
        """Images, uint8 [B, C, H, W], and labels, int64 [B]; raises DataError as `Images.take`."""
        return [(self.images.take(numbers), self.labels.index_select(0, numbers))]


@dataclass(frozen=True)
class Samples:
    """Some samples of one split."""

    split: SplitName
    chosen: Tensor | None
    """int64 [N], ascending: numbers of the samples in the split of the files; None if all are used, to save the memory.
    Samples of `validation` are numbered in the training split."""
    source: Source
    """The whole split of the files."""

    def __len__(self) -> int:
        return len(self.source) if self.chosen is None else len(self.chosen)

    @property
    def indices(self) -> Tensor:
        """int64 [N]: numbers of all samples in the split of the files; a new tensor at each call if all are used."""
        return torch.arange(len(self)) if self.chosen is None else self.chosen

    def numbers(self, positions: Tensor) -> Tensor:
        """Numbers, in the split of the files, of the samples at these positions: int64 [B] -> int64 [B].

        Random augmentation is keyed by these numbers.
        """
        return positions.to(torch.int64) if self.chosen is None else self.chosen.index_select(0, positions)

    def read(self, positions: Tensor, epoch: int, sizes: Sequence[int] | None = None) -> list[Nest]:
        """Read the samples at these positions, as `Source.take` returns them; raises DataError.

        Args:
            sizes: samples in each pass; default: all are in one.
        """
        return self.source.take(self.numbers(positions), epoch, sizes or [len(positions)])


@dataclass(frozen=True)
class DataFormat:
    """What all splits of an open data set have in common."""

    shape: Shape | None
    """Channels, height and width of an image as the model gets it; None if the inputs are no images of one shape."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of the labels; () if there are none or they are not known."""
    normalize: Normalize | None
    """The mean and std in use, one number a channel; None if inputs come as the model gets them."""
    loader: Literal["in_memory", "workers"]
    """The loader that `data.loader` selects on this machine."""
    identity: DataIdentity
    """What a checkpoint keeps, to notice at a resume that the data have changed."""
    make_example: Callable[[int], Nest]
    """Returns (inputs, targets) of so many samples, as a step gets them, on the CPU, for trial passes."""


@dataclass(frozen=True)
class Dataset(DataFormat):
    """An open data set."""

    train: Samples
    validation: Samples | None
    test: Samples | None
    """None where image folders have no `test`; then there is a validation split."""

    @property
    def held_out(self) -> tuple[Samples, ...]:
        """The splits that are evaluated: the first during training, all at the end of a run."""
        return tuple(samples for samples in (self.validation, self.test) if samples)

    def keep_first(self, count: int) -> "Dataset":
        """Return the data set with the first `count` training samples only."""
        return replace(self, train=replace(self.train, chosen=self.train.indices[:count]))


@dataclass(frozen=True)
class OpenSplit(DataFormat):
    """One split, opened for an evaluation."""

    samples: Samples


def make_black_images(shape: Shape, count: int) -> tuple[Tensor, Tensor]:
    """Return images of zeros, [count, C, H, W] of torch's default dtype, and labels of the first class."""
    return torch.zeros(count, *shape), torch.zeros(count, dtype=torch.int64)
