"""JPEGs are decoded to the pixels of Pillow, and what is not a plain one is left to it."""

import io
import itertools
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dist_train.data.datasets.jpeg import decode_jpeg

XMP = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
"""As a program writes it that has no EXIF; 6 is a quarter turn."""


def make_noise(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    width, height = size
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)).convert(mode)


def write(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"quality": 15}, {"keep_rgb": True, "subsampling": 0}, {"restart_marker_rows": 1}],
)
def test_the_pixels_are_those_of_pillow(subsampling: str, options: dict[str, Any]) -> None:
    for size, resize in itertools.product([(500, 375), (33, 61), (1, 1), (1000, 8), (16, 16)], [None, 1, 4, 60]):
        content = write(make_noise(size), **{"subsampling": subsampling, **options})
        found = decode_jpeg(content, resize, "exif")
        with Image.open(io.BytesIO(content)) as file:
            if resize is not None:
                file.draft(None, (2 * resize, 2 * resize))
            expected = np.asarray(file)
        assert found is not None, (size, resize)
        assert np.array_equal(found[..., :3], expected), (size, resize)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xd8",
        b"\xff\xd8\xff\xe0",
        write(make_noise((40, 30), "L")),
        write(make_noise((40, 30), "CMYK")),
        write(make_noise((40, 30)), "PNG"),
        write(make_noise((40, 30)))[:-200],
        write(make_noise((40, 30))).replace(b"\xff\xc0", b"\xff\xc9"),  # its pixels are not those of the header
    ],
    ids=["empty", "start only", "no segment", "grey", "four inks", "PNG", "cut", "damaged"],
)
def test_what_is_no_plain_jpeg_is_left_to_pillow(content: bytes) -> None:
    assert decode_jpeg(content, None, "stored") is None


def test_a_very_large_picture_is_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """It warns, and refuses a file that would fill the memory."""
    content = write(make_noise((40, 30)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1199)
    assert decode_jpeg(content, None, "exif") is None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1200)
    assert decode_jpeg(content, None, "exif") is not None


@pytest.mark.parametrize("before", [b"", b"\xff\xda thumbnail"], ids=["first", "after a preview"])
@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("kind", ["exif", "xmp"])
def test_a_turned_picture_is_left_to_pillow(kind: str, turned: bool, before: bytes) -> None:
    content = write(make_noise((40, 30)))
    if kind == "exif":
        content = write(make_noise((40, 30)), exif=exif(6 if turned else 1))
    else:
        xmp = XMP if turned else XMP.replace(b"6", b"1")
        content = content[:2] + b"\xff\xe1" + (len(xmp) + 2).to_bytes(2) + xmp + content[2:]
    content = content[:2] + b"\xff\xed" + (len(before) + 2).to_bytes(2) + before + content[2:]
    assert (decode_jpeg(content, None, "exif") is None) == turned
    assert decode_jpeg(content, None, "stored") is not None
