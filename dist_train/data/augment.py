"""From stored pictures to what the model gets: crop, flip, normalise, cut out, whole batches at a time, on the device.

Each random choice is a function of (seed, epoch, sample index), so that neither the cut of the batches nor the number
of ranks or workers changes it.
"""

import torch
from torch import Tensor
from torch.nn import functional

from dist_train import seeds
from dist_train.config import Augment, Normalize


class Preparation:
    """uint8 [B, C, H, W] -> float [B, C, H, W] of torch's default dtype, normalised, in one memory format."""

    def __init__(
        self,
        normalize: Normalize,
        augment: Augment,
        seed: int,
        device: torch.device,
        memory_format: torch.memory_format,
    ) -> None:
        self._augment = augment
        self._seed = seed
        self._memory_format = memory_format
        self._scale, self._shift = _constants(normalize, device)

    def plain(self, pictures: Tensor) -> Tensor:
        """Normalised and not augmented."""
        # Two operations: a fused one rounds differently in the vector and the scalar part of its loop, and then a
        # picture's bits would depend on the batch it is in.
        floats = pictures.to(self._scale.dtype, memory_format=self._memory_format)
        return floats.mul_(self._scale).add_(self._shift)

    def augmented(self, pictures: Tensor, indices: Tensor, epoch: int) -> Tensor:
        """Augmented as the samples of these numbers, int64 [B] on the device of the pictures, are in this epoch."""
        pictures = self.plain(crop_and_flip(pictures, self._augment, self._seed, epoch, indices))
        if self._augment.cutout:
            cut_out_(pictures, self._augment.cutout, self._seed, epoch, indices)
        return pictures


def crop_and_flip(pictures: Tensor, augment: Augment, seed: int, epoch: int, indices: Tensor) -> Tensor:
    """A random window of the padded picture, mirrored with probability 1/2; shape and dtype stay.

    Args:
        pictures: uint8 [B, C, H, W].
        indices: int64 [B], numbers of the samples, on the same device.
    """
    if augment.crop_padding:
        places = 2 * augment.crop_padding + 1
        top = seeds.random_bits(seed, "crop-row", epoch, indices) % places
        left = seeds.random_bits(seed, "crop-column", epoch, indices) % places
        pictures = _windows(pictures, augment.crop_padding, top, left)
    if augment.flip:
        mirrored = seeds.random_bits(seed, "flip", epoch, indices) % 2 == 1
        pictures = torch.where(mirrored[:, None, None, None], pictures.flip(3), pictures)
    return pictures


def cut_out_(pictures: Tensor, side: int, seed: int, epoch: int, indices: Tensor) -> None:
    """Set a square of `side` pixels, its centre anywhere in the picture, to 0, the mean of normalised pictures.

    Args:
        pictures: float [B, C, H, W], changed in place.
        indices: int64 [B], numbers of the samples, on the same device.
    """
    height, width = pictures.shape[-2:]
    row = seeds.random_bits(seed, "cutout-row", epoch, indices) % height
    column = seeds.random_bits(seed, "cutout-column", epoch, indices) % width
    inside = _span(row, side, height)[:, None, :, None] & _span(column, side, width)[:, None, None, :]
    pictures.masked_fill_(inside, 0)


def _windows(pictures: Tensor, padding: int, top: Tensor, left: Tensor) -> Tensor:
    """Of each picture, padded with zeros, the window of its size that begins at (top, left)."""
    height, width = pictures.shape[-2:]
    padded = functional.pad(pictures, (padding, padding, padding, padding))
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(pictures), device=pictures.device), :, top, left]


def _span(centre: Tensor, side: int, length: int) -> Tensor:
    """bool [B, length]: the `side` pixels around each centre, int64 [B], as far as they lie in the picture."""
    offset = torch.arange(length, device=centre.device) - centre[:, None] + side // 2
    return (offset >= 0) & (offset < side)


def _constants(normalize: Normalize, device: torch.device) -> tuple[Tensor, Tensor]:
    """Factor and summand, [C, 1, 1], that make (x / 255 - mean) / std of x; rounded once, from float64."""
    mean = torch.tensor(normalize.mean, dtype=torch.float64)[:, None, None]
    std = torch.tensor(normalize.std, dtype=torch.float64)[:, None, None]
    dtype = torch.get_default_dtype()
    return (1 / (255 * std)).to(device, dtype), (-mean / std).to(device, dtype)
