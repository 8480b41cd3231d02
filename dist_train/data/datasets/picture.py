"""Decode a picture file to RGB as a viewer shows it, or refuse it by name.

    turned      as its EXIF orientation says
    transparent parts are over white
    16 bits     scaled to the full range: 65535 is white

Pictures without defined colours, such as floats and 32-bit integers, and files with several pictures are refused.

A JPEG that is scaled is decoded at 1/2, 1/4 or 1/8 of its size where that leaves at least twice the side of the result,
as in Pillow's thumbnails. That is several times as fast, and one or two grey levels from the whole picture on average.
"""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch.nn import functional

from dist_train.data.datasets.jpeg import decode_jpeg, is_turned
from dist_train.data.datasets.pixels import Pixels, to_image, to_planes, view_pixels
from dist_train.errors import DataError
from dist_train.system.escape import escape
from dist_train.system.read_file import explain, open_regular

VERSION = 3
"""Version of the decoding; incremented when the same file would give other pixels."""
ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".tif", ".tiff", ".webp", ".jp2", ".j2k", ".avif"),
)
"""Endings of the files that are read, in any case."""
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "DIB", "PPM", "TIFF", "WEBP", "JPEG2000", "AVIF")
"""Pillow's names of the formats that are read, whatever the ending. Others may start programs, as PostScript does."""

_OPAQUE = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
_TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_SAMPLE_FORMAT = 258, 262, 339
_TIFF_UNSIGNED = 1
_PNG_FACTORS = {"L;2": 85, "L;4": 17}
"""Factors by which Pillow scales the pixels of PNGs with few bits, but not their transparent value."""


class _RefusedError(Exception):
    """A picture that can't be shown in one way."""


def decode(path: str, resize: int | None, orientation: str = "exif") -> Pixels:
    """Decode one file to uint8 [3, H, W].

    Args:
        resize: cut the middle square and scale it to this many pixels a side.
        orientation: `exif`, or `stored`: in the order of the pixels in the file.

    Raises:
        DataError: the file is damaged, or of a kind that is not shown in one way only.
    """
    return _resize(_read(path, resize, orientation), resize)


def open_picture(path: str, orientation: str = "exif") -> Image.Image:
    """Decode one file to a picture of the mode RGB; as `decode`."""
    return to_image(_read(path, None, orientation))


def from_picture(picture: Image.Image, resize: int | None, orientation: str = "exif") -> Pixels:
    """Return uint8 [3, H, W] of a picture in memory, which stays as it is; otherwise as `decode`."""
    image = picture.copy()
    try:
        if orientation == "exif" and is_turned(image):
            ImageOps.exif_transpose(image, in_place=True)
        return _resize(view_pixels(_to_rgb(image, 1)), resize)
    except _RefusedError as error:
        raise DataError(f"the picture {error}; convert it") from None


def _resize(stored: Pixels, resize: int | None) -> Pixels:
    """Return uint8 [3, H, W] of pixels with four bytes each, uint8 [H, W, 4], cut and scaled as in `decode`."""
    if resize is None:
        return to_planes(stored)
    # With the batch in front the strides are those of channels_last, for which torch has its fastest kernel.
    square = torch.from_numpy(_cut_square(stored))[None].permute(0, 3, 1, 2)
    scaled = functional.interpolate(square, (resize, resize), mode="bilinear", antialias=True)
    return to_planes(scaled[0].permute(1, 2, 0).numpy())


def _read(path: str, resize: int | None, orientation: str) -> Pixels:
    """Decode one file to uint8 [H, W, 4], of a JPEG the part of its size that `resize` needs; raises DataError."""
    try:
        with open_regular(Path(path)) as stored:
            pixels = decode_jpeg(stored, resize, orientation)
            return _read_by_pillow(stored, resize, orientation) if pixels is None else pixels
    except _RefusedError as error:
        raise DataError(f"{escape(path)}: {error}; convert it, or remove it") from None
    except UnidentifiedImageError as error:
        raise DataError(
            f"{escape(path)}: is not a readable image (of no known format); replace or remove it"
        ) from error
    except Exception as error:  # a damaged file makes PIL's plugins raise nearly anything
        raise DataError(f"{escape(path)}: is not a readable image ({_explain(error)}); replace or remove it") from error


def _read_by_pillow(stored: BinaryIO, resize: int | None, orientation: str) -> Pixels:
    with Image.open(stored, formats=_find_formats()) as file:
        _refuse_several(file)
        factor = _PNG_FACTORS.get(_find_raw_mode(file), 1)
        if resize is not None:
            file.draft(None, (2 * resize, 2 * resize))
        file.load()
        if orientation == "exif" and is_turned(file):
            ImageOps.exif_transpose(file, in_place=True)
        return view_pixels(_to_rgb(file, factor))


def _explain(error: Exception) -> str:
    """Return what is wrong with a file; some errors have no text, and that of a KeyError is a key."""
    if isinstance(error, OSError):
        return explain(error)
    return escape(repr(error) if isinstance(error, LookupError) or not str(error) else error)


def _cut_square(pixels: Pixels) -> Pixels:
    """Return a view of the middle square, [H, W, C] -> [S, S, C]."""
    height, width, _ = pixels.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


def _find_formats() -> list[str]:
    """Return the formats of `FORMATS` that this version of Pillow has."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _refuse_several(file: Image.Image) -> None:
    frames = getattr(file, "n_frames", 1)
    if frames > 1 and file.format != "MPO":  # a camera's JPEG, whose other pictures are previews of the first
        raise _RefusedError(f"holds {frames} pictures ({file.format}, mode {file.mode}), and one is needed")


def _find_raw_mode(file: Any) -> str:
    """Return how the pixels are stored, which is known only until they are loaded."""
    arguments = [tile[3] for tile in getattr(file, "tile", None) or []]
    return arguments[0] if arguments and isinstance(arguments[0], str) else ""


def _to_rgb(file: Image.Image, factor: int) -> Image.Image:
    tags: Any = getattr(file, "tag_v2", {})
    formats = tags.get(_TIFF_SAMPLE_FORMAT, ())
    if any(each != _TIFF_UNSIGNED for each in (formats if isinstance(formats, tuple) else (formats,))):
        raise _RefusedError(f"has signed numbers or fractions (mode {file.mode}), which are no colours")
    transparent = file.info.get("transparency")
    if file.mode in _SIXTEEN_BITS or (file.mode == "I" and file.format in ("PNG", "PPM")):
        bits = tags.get(_TIFF_BITS, (16,))[0]
        return _scale_to_bytes(np.asarray(file), bits, tags.get(_TIFF_PHOTOMETRIC) == 0, transparent)
    if file.mode not in _OPAQUE + _TRANSPARENT:
        raise _RefusedError(f"has the mode {file.mode}, whose black and white are not defined")
    if isinstance(transparent, tuple) and max(transparent) > 255:
        raise _RefusedError(f"has a transparent colour of 16 bits (mode {file.mode})")
    if isinstance(transparent, int):
        file.info["transparency"] = transparent * factor
    if file.mode in _TRANSPARENT or transparent is not None or _has_transparent_palette(file):
        return _lay_over_white(file)
    return file if file.mode == "RGB" else file.convert("RGB")


def _scale_to_bytes(pixels: Any, bits: int, is_inverted: bool, transparent: int | None) -> Image.Image:
    """Scale integers of 12 or 16 bits, [H, W], to 0..255."""
    white = 2**bits - 1
    wide = pixels.astype(np.int64)
    scaled = (wide * 255 + white // 2) // white
    scaled = 255 - scaled if is_inverted else scaled
    if transparent is not None:
        scaled[wide == transparent] = 255
    return Image.fromarray(scaled.clip(0, 255).astype(np.uint8)).convert("RGB")


def _has_transparent_palette(file: Image.Image) -> bool:
    return file.mode == "P" and file.palette is not None and file.palette.mode.endswith("A")


def _lay_over_white(file: Image.Image) -> Image.Image:
    image = file.convert("LA") if file.mode == "La" else file
    over = Image.new("RGBA", image.size, "white")
    over.alpha_composite(image.convert("RGBA"))
    return over.convert("RGB")
