"""Decode JPEGs by libjpeg-turbo to the pixels of Pillow, which copies each row and takes longer to open a file."""

import os
from io import BytesIO
from typing import BinaryIO

from PIL import ExifTags, Image

from dist_train.data.datasets.pixels import Pixels

LARGEST = 2**28
"""Bytes of the largest file that is read whole; Pillow reads no more of it than it needs."""

_COLOURS = ("YCbCr", "RGB")
_PARTS = (8, 4, 2, 1)
_START, _SCAN, _APP1 = b"\xff\xd8", b"\xff\xda", b"\xff\xe1"
"""Markers: of the file, of the pixels, and of EXIF and XMP, which hold the orientation."""
_USUAL = frozenset(bytes([0xFF, number]) for number in (0xC0, 0xC1, 0xC2, 0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE))
"""Markers of segments before the pixels that Pillow and libjpeg-turbo follow alike: of sizes, tables and notes."""


def decode_jpeg(file: BinaryIO, resize: int | None, orientation: str) -> Pixels | None:
    """Decode a file, from its start, to uint8 [H, W, 4] as it is stored; the fourth byte means nothing.

    Args:
        resize: decode at 1/2, 1/4 or 1/8 of the size if at least twice this many pixels a side are left.

    Returns:
        None where Pillow has to read it: a file of another kind, one that is turned, without colours or very large, or
        one with a fault, which Pillow reads in spite of that, or names.
    """
    if file.read(len(_START)) != _START or os.fstat(file.fileno()).st_size > LARGEST:
        return None
    content = _START + file.read()
    markers = _list_markers(content)
    if not markers <= _USUAL or (orientation == "exif" and _APP1 in markers and _is_turned(content)):
        return None
    import simplejpeg  # most runs read no JPEG

    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours not in _COLOURS or height * width > (Image.MAX_IMAGE_PIXELS or 0):
            return None
        part = 1 if resize is None else _find_part(min(height, width), 2 * resize)
        height, width = -(-height // part), -(-width // part)
        pixels: Pixels = simplejpeg.decode_jpeg(content, "RGBX", min_height=height, min_width=width)
    except Exception:  # not only ValueError: of a subsampling that it has no name for it raises KeyError
        return None
    return pixels if pixels.shape == (height, width, 4) else None


def _find_part(side: int, needed: int) -> int:
    """Return how many times smaller the picture is decoded."""
    return next(part for part in _PARTS if part == 1 or side // needed >= part)


def is_turned(file: Image.Image) -> bool:
    """Whether EXIF asks viewers to turn the picture; one with damaged EXIF is shown as it is stored."""
    try:
        return bool(file.getexif().get(ExifTags.Base.Orientation, 1) != 1)
    except Exception:
        return False


def _is_turned(content: bytes) -> bool:
    with Image.open(BytesIO(content), formats=["JPEG"]) as file:
        return is_turned(file)


def _list_markers(content: bytes) -> set[bytes]:
    """Return the markers of the segments before the pixels, up to the first that is not of `_USUAL`."""
    at, found = len(_START), set[bytes]()
    while (marker := content[at : at + 2]) != _SCAN and found <= _USUAL:
        found.add(marker)
        at += 2 + int.from_bytes(content[at + 2 : at + 4])
    return found
