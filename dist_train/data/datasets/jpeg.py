"""Decode JPEGs by libjpeg-turbo to the pixels of Pillow, which copies each row and takes longer to open a file."""

from io import BytesIO

from PIL import ExifTags, Image

from dist_train.data.datasets.pixels import Pixels

_COLOURS = ("YCbCr", "RGB")
_PARTS = (8, 4, 2, 1)
_START = b"\xff\xd8"
_SCAN, _APP1 = 0xDA, 0xE1
"""Markers: of the pixels, and of EXIF and XMP, which hold the orientation."""


def decode_jpeg(content: bytes, resize: int | None, orientation: str) -> Pixels | None:
    """Decode a file to uint8 [H, W, 4] as it is stored; the fourth byte means nothing.

    Args:
        resize: decode at 1/2, 1/4 or 1/8 of the size if at least twice this many pixels a side are left.

    Returns:
        None where Pillow has to read it: a file of another kind, one that is turned, without colours or very large, or
        one with a fault, which Pillow reads in spite of that, or names.
    """
    if not content.startswith(_START) or (orientation == "exif" and _is_turned(content)):
        return None
    import simplejpeg  # most runs read no JPEG

    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours not in _COLOURS or height * width > (Image.MAX_IMAGE_PIXELS or 0):
            return None
        part = 1 if resize is None else _find_part(min(height, width), 2 * resize)
        height, width = -(-height // part), -(-width // part)
        pixels: Pixels = simplejpeg.decode_jpeg(content, "RGBX", min_height=height, min_width=width)
    except ValueError:
        return None
    return pixels if pixels.shape == (height, width, 4) else None


def _find_part(side: int, needed: int) -> int:
    """How many times smaller the picture is decoded."""
    return next(part for part in _PARTS if part == 1 or side // needed >= part)


def is_turned(file: Image.Image) -> bool:
    """Whether its orientation says that a viewer turns a picture; one with damaged EXIF is shown as it is stored."""
    try:
        return bool(file.getexif().get(ExifTags.Base.Orientation, 1) != 1)
    except Exception:
        return False


def _is_turned(content: bytes) -> bool:
    """`is_turned` of a file, which Pillow opens only if it has an orientation."""
    if not _has_app1(content):
        return False
    with Image.open(BytesIO(content), formats=["JPEG"]) as file:
        return is_turned(file)


def _has_app1(content: bytes) -> bool:
    """Whether EXIF or XMP comes before the pixels; True also for a file whose segments can't be followed."""
    at = len(_START)
    while at + 4 <= len(content) and content[at] == 0xFF and content[at + 1] != _APP1:
        if content[at + 1] == _SCAN:
            return False
        at += 2 + int.from_bytes(content[at + 2 : at + 4])
    return True
