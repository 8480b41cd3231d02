"""The pixels of a picture in Pillow's memory, without a copy if its version can lend them.

Pillow holds four bytes a pixel of the mode RGB. It lends them by the Arrow C data interface, a stable layout in memory:
https://arrow.apache.org/docs/format/CDataInterface.html
"""

import ctypes
from typing import Any

import numpy as np
from PIL import Image

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

_FOUR_BYTES, _BYTE = b"+w:4", b"C"
"""Arrow's formats of a list of four, and of its elements."""


class _Schema(ctypes.Structure):
    """ArrowSchema."""


_Schema._fields_ = [
    ("format", ctypes.c_char_p), ("name", ctypes.c_char_p), ("metadata", ctypes.c_char_p), ("flags", ctypes.c_int64),
    ("n_children", ctypes.c_int64), ("children", ctypes.POINTER(ctypes.POINTER(_Schema))),
]  # fmt: skip


class _Array(ctypes.Structure):
    """ArrowArray."""


_Array._fields_ = [
    ("length", ctypes.c_int64), ("null_count", ctypes.c_int64), ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64), ("n_children", ctypes.c_int64), ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_Array))),
]  # fmt: skip

_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype, _get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def view_pixels(image: Image.Image) -> Pixels:
    """Return the pixels of a picture of the mode RGB, uint8 [H, W, 4]; the fourth byte means nothing.

    The array may be the picture's own memory, which must not be changed.
    """
    found = _borrow(image) if hasattr(image, "__arrow_c_array__") else None
    if found is None:
        found = np.frombuffer(image.tobytes("raw", "RGBX"), np.uint8)
    return found.reshape(image.height, image.width, 4)


def _borrow(image: Image.Image) -> Pixels | None:
    """Return the bytes that Pillow lends, uint8 [4 * pixels]; None if they are in several pieces."""
    try:
        capsules = image.__arrow_c_array__()
    except (ValueError, MemoryError):  # a large picture
        return None
    schema = _Schema.from_address(_get_pointer(capsules[0], b"arrow_schema"))
    array = _Array.from_address(_get_pointer(capsules[1], b"arrow_array"))
    if schema.format != _FOUR_BYTES or schema.children[0].contents.format != _BYTE:
        return None
    inner, size = array.children[0].contents, 4 * image.width * image.height
    if (array.length, array.offset, inner.length, inner.offset) != (size // 4, 0, size, 0):
        return None
    memory: Any = (ctypes.c_uint8 * size).from_address(inner.buffers[1])
    memory.owner = capsules  # kept as long as the array that follows
    return np.frombuffer(memory, np.uint8)


def to_image(pixels: Pixels) -> Image.Image:
    """Return a picture of the mode RGB with a copy of pixels of four bytes each, uint8 [H, W, 4]."""
    height, width, _ = pixels.shape
    return Image.frombytes("RGB", (width, height), pixels.tobytes(), "raw", "RGBX")


def to_planes(pixels: Pixels) -> Pixels:
    """Return uint8 [3, H, W] of pixels with four bytes each, uint8 [H, W, 4]."""
    words = np.ascontiguousarray(pixels).view("<u4")[..., 0]  # numpy copies single bytes several times as slowly
    planes = np.empty((3, *words.shape), np.uint8)
    for channel, plane in enumerate(planes):
        plane[:] = words >> 8 * channel
    return planes
