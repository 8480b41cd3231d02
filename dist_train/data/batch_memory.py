"""Memory for the large batches of one stream, used again for later ones."""

import math
import mmap
import weakref

import torch
from torch import Tensor

LEAST = 2**20
"""Smallest size in bytes of a tensor whose memory is kept; the C library keeps that of smaller ones."""


class BatchMemory:
    """Memory on the CPU that is used again once every tensor in it is freed.

    The C library returns large blocks to the system, or puts small ones into their place, and then a batch costs a page
    fault for each 4 KiB: on images of 224 pixels four times as long as their conversion to floats.
    """

    def __init__(self) -> None:
        self._used: list[tuple[mmap.mmap, weakref.ref[memoryview]]] = []
        """Blocks, each with the view that torch holds until the last tensor in it is freed."""
        self._free: list[mmap.mmap] = []

    def allocate(
        self, shape: torch.Size, dtype: torch.dtype, device: torch.device, memory_format: torch.memory_format
    ) -> Tensor:
        """Return a tensor of undefined values, [B, C, H, W], like `torch.empty`, which it calls for a GPU.

        It can't grow in place (`resize_`), and only one thread may call this.
        """
        count = math.prod(shape)
        if device.type != "cpu" or count * dtype.itemsize < LEAST:
            return torch.empty(shape, dtype=dtype, device=device, memory_format=memory_format)
        block = self._find_block(count * dtype.itemsize)
        view = memoryview(block)
        self._used.append((block, weakref.ref(view)))
        values = torch.frombuffer(view, dtype=dtype, count=count)
        batch, channels, height, width = shape
        if memory_format == torch.channels_last:
            return values.view(batch, height, width, channels).permute(0, 3, 1, 2)
        return values.view(shape)

    def _find_block(self, size: int) -> mmap.mmap:
        """Return a block of at least so many bytes, and forget free ones that are smaller."""
        self._free += [block for block, view in self._used if view() is None]
        self._used = [(block, view) for block, view in self._used if view() is not None]
        first, *self._free = [block for block in self._free if len(block) >= size] or [_map_memory(size)]
        return first


def _map_memory(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
