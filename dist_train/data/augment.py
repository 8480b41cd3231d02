"""Crop, flip, normalise, add noise to and cut out many images at a time, on the device.

Each random choice is a function of (seed, epoch, sample index), and each operation is elementwise or per image, so that
the batch size and the number of ranks or workers change no bit. Nothing here waits for a GPU.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from dist_train import seeds
from dist_train.data.batch_memory import BatchMemory
from dist_train.nest import Nest, map_tensors
from dist_train.settings.schema import Augment, Noise, Normalize

_INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer dtypes by the bytes of a float."""


class Preparation(Protocol):
    """Prepares and augments the inputs of loaded samples, on the device."""

    def prepare(self, inputs: Nest) -> Nest:
        """Return inputs as a network gets them in an evaluation."""

    def augment(self, inputs: Nest, indices: Tensor, epoch: int) -> Nest:
        """Return inputs as a network gets them in training; `indices`, int64 [B], number the samples."""


def open_preparation(
    normalize: Normalize | None, augment: Noise, seed: int, device: torch.device, memory_format: torch.memory_format
) -> Preparation:
    """Return the preparation of images that are normalised, or that of inputs that are prepared already."""
    noise = InputNoise(augment.noise, seed, device) if augment.noise else None
    if normalize is None:
        return Prepared(memory_format, noise)
    augment = augment if isinstance(augment, Augment) else Augment()
    return Preprocessing(normalize, augment, seed, device, memory_format, noise)


class InputNoise:
    """Normal noise for each number of the inputs: a function of seed, epoch, sample and position in the sample.

    It takes 65,536 values, the quantiles in the middle of as many equal shares. Computed for each number alone, a
    logarithm would round differently in the vector and the scalar part of a loop.
    """

    def __init__(self, std: float, seed: int, device: torch.device) -> None:
        shares = (torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16
        self._values = (std * torch.special.ndtri(shares)).to(device, torch.get_default_dtype())
        self._seed = seed

    def add_(self, inputs: Tensor, indices: Tensor, epoch: int) -> Tensor:
        """Add noise in place to floats [B, ...]; `indices`, int64 [B] on their device, number the samples."""
        places = torch.arange(inputs[0].numel(), device=inputs.device)
        positions = indices[:, None] * len(places) + places
        (bits,) = seeds.random_bits(self._seed, ("noise",), epoch, positions)
        return inputs.add_(self._values[bits >> 15].view(inputs.shape))


class Prepared:
    """The preparation of inputs that need only the memory format of images, and noise."""

    def __init__(self, memory_format: torch.memory_format, noise: InputNoise | None = None) -> None:
        """`noise`: for inputs that are one tensor of floats."""
        self._memory_format = memory_format
        self._noise = noise

    def prepare(self, inputs: Nest) -> Nest:
        """Bring tensors of four dimensions into the memory format."""
        if self._memory_format == torch.contiguous_format:
            return inputs
        return map_tensors(self._convert, inputs)

    def augment(self, inputs: Nest, indices: Tensor, epoch: int) -> Nest:
        """Prepare and add noise; other random changes were made when the samples were read."""
        prepared = self.prepare(inputs)
        return self._noise.add_(prepared, indices, epoch) if self._noise else prepared

    def _convert(self, tensor: Tensor) -> Tensor:
        return tensor.contiguous(memory_format=self._memory_format) if tensor.dim() == 4 else tensor


class Preprocessing:
    """uint8 [B, C, H, W] -> float [B, C, H, W] of torch's default dtype, normalised, in one memory format."""

    def __init__(
        self,
        normalize: Normalize,
        augment: Augment,
        seed: int,
        device: torch.device,
        memory_format: torch.memory_format,
        noise: InputNoise | None = None,
    ) -> None:
        self._augment = augment
        self._noise = noise
        self._seed = seed
        self._memory_format = memory_format
        self._memory = BatchMemory()
        self._scale, self._shift = _compute_constants(normalize, device)

    def prepare(self, inputs: Tensor) -> Tensor:
        """Normalise without augmentation."""
        scale, shift = self._scale, self._shift
        if self._memory_format == torch.channels_last:
            scale, shift = (_expand_along_row(constant, inputs.shape[3]) for constant in (scale, shift))
        # Two operations: a fused one rounds differently in the vector and the scalar part of its loop, and then a
        # image's bits would depend on the batch it is in.
        return self._to_floats(inputs).mul_(scale).add_(shift)

    def _to_floats(self, images: Tensor) -> Tensor:
        floats = self._memory.allocate(images.shape, self._scale.dtype, images.device, self._memory_format)
        if self._memory_format == torch.contiguous_format:
            return floats.copy_(images)
        # One channel at a time: from one format to the other torch's copy goes pixel by pixel, and takes twice as long.
        for number, channel in enumerate(images.unbind(1)):
            floats.select(1, number).copy_(channel)
        return floats

    def augment(self, inputs: Tensor, indices: Tensor, epoch: int) -> Tensor:
        """Augment and normalise; `indices`, int64 [B] on the device of the images, key the random choices."""
        images = self.prepare(crop_and_flip(inputs, self._augment, self._seed, epoch, indices))
        if self._noise:
            self._noise.add_(images, indices, epoch)
        if self._augment.cutout:
            cut_out_(images, self._augment.cutout, self._seed, epoch, indices, self._memory_format)
        return images


def crop_and_flip(images: Tensor, augment: Augment, seed: int, epoch: int, indices: Tensor) -> Tensor:
    """Return a random window of each padded image, mirrored with probability 1/2; shape and dtype stay.

    Args:
        images: uint8 [B, C, H, W].
        indices: int64 [B], numbers of the samples, on the same device.
    """
    if not (augment.crop_padding or augment.flip):
        return images
    row, column, flip = seeds.random_bits(seed, ("crop-row", "crop-column", "flip"), epoch, indices)
    if augment.crop_padding:
        offsets = 2 * augment.crop_padding + 1
        images = _cut_windows(images, augment.crop_padding, row % offsets, column % offsets)
    if augment.flip:
        images = _mirror(images, flip % 2)
    return images


def cut_out_(
    images: Tensor,
    side: int,
    seed: int,
    epoch: int,
    indices: Tensor,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> None:
    """Set a square of `side` pixels, its centre anywhere in the image, to 0, the mean of normalised images.

    Args:
        images: float [B, C, H, W] in this memory format, changed in place.
        indices: int64 [B], numbers of the samples, on the same device.
    """
    channels, height, width = images.shape[1:]
    row, column = seeds.random_bits(seed, ("cutout-row", "cutout-column"), epoch, indices)
    bits = _INTEGER[images.element_size()]
    rows = _mask_outside(row % height, side, height).to(bits).neg_()
    columns = _mask_outside(column % width, side, width).to(bits).neg_()
    # Bits, all set where a number stays: filling by a mask of booleans takes six times as long.
    pixels = images.view(bits)
    if memory_format == torch.channels_last:
        # By rows of memory, in which the channels are side by side: torch would walk it pixel by pixel.
        columns = columns[:, :, None].expand(-1, -1, channels).flatten(1)
        pixels.permute(0, 2, 3, 1).flatten(2).bitwise_and_(rows[:, :, None] | columns[:, None, :])
    else:
        pixels.bitwise_and_((rows[:, :, None] | columns[:, None, :])[:, None])


def _cut_windows(images: Tensor, padding: int, top: Tensor, left: Tensor) -> Tensor:
    """Pad each image with zeros and cut the window of its size at (top, left), int64 [B]."""
    count, channels, height, width = images.shape
    padded = functional.pad(images, (padding, padding, padding, padding))
    of_image, of_channel, of_row, _ = padded.stride()
    # Every window of every image, by the offset of its first pixel in memory: copied as whole rows.
    offsets = padded.numel() - (channels - 1) * of_channel - (height - 1) * of_row - width + 1
    windows = padded.as_strided((offsets, channels, height, width), (1, of_channel, of_row, 1))
    first = torch.arange(count, device=images.device) * of_image
    return windows.index_select(0, first + top * of_row + left)


def _mirror(images: Tensor, flip: Tensor) -> Tensor:
    """Mirror the images whose `flip`, int64 [B], is 1; it is 0 for the others."""
    chosen = flip.neg().to(torch.uint8)[:, None, None, None]
    # a ^ ((a ^ b) & mask) is a choice between a and b at the speed of memory; `where` reads single bytes.
    return images.flip(3).bitwise_xor_(images).bitwise_and_(chosen).bitwise_xor_(images)


def _expand_along_row(constant: Tensor, width: int) -> Tensor:
    """[C, 1, 1] -> [1, C, 1, W] in channels_last, so that torch works on rows and not on single pixels."""
    return constant.expand(1, -1, 1, width).contiguous(memory_format=torch.channels_last)


def _mask_outside(centre: Tensor, side: int, length: int) -> Tensor:
    """Mask all but the `side` pixels around each centre: int64 [B] -> bool [B, length]."""
    offset = torch.arange(length, device=centre.device) - centre[:, None] + side // 2
    return (offset < 0) | (offset >= side)


def _compute_constants(normalize: Normalize, device: torch.device) -> tuple[Tensor, Tensor]:
    """Scale and shift, [C, 1, 1], for (x / 255 - mean) / std; rounded once, from float64."""
    mean = torch.tensor(normalize.mean, dtype=torch.float64)[:, None, None]
    std = torch.tensor(normalize.std, dtype=torch.float64)[:, None, None]
    dtype = torch.get_default_dtype()
    return (1 / (255 * std)).to(device, dtype), (-mean / std).to(device, dtype)
