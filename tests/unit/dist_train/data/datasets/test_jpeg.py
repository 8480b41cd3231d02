"""JPEGs are decoded to the pixels of Pillow, and what is not a plain one is left to it."""

import io
import itertools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dist_train.data.datasets import jpeg
from dist_train.data.datasets.picture import decode
from dist_train.data.datasets.pixels import Pixels

XMP = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
"""As a program writes it that has no EXIF; 6 is a quarter turn."""


def make_noise(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    width, height = size
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)).convert(mode)


def write(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decode_jpeg(content: bytes, resize: int | None, orientation: str) -> Pixels | None:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        return jpeg.decode_jpeg(file, resize, orientation)


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
        assert found is not None, (size, resize)
        assert np.array_equal(found[..., :3], decode_by_pillow(content, resize)), (size, resize)


def decode_by_pillow(content: bytes, resize: int | None) -> Pixels:
    with Image.open(io.BytesIO(content)) as file:
        if resize is not None:
            file.draft(None, (2 * resize, 2 * resize))
        return np.asarray(file)


def make_segment(number: int, content: bytes) -> bytes:
    return bytes([0xFF, number]) + (len(content) + 2).to_bytes(2) + content


def write_sampled(sampling: tuple[tuple[int, int], ...], size: tuple[int, int]) -> bytes:
    """Return a JPEG of noise whose colours have these numbers of blocks, (across, down), in each unit of the picture.

    Each symbol of its Huffman codes has four bits: a difference of so many bits, and an end after the first number.
    """
    width, height = size
    across, down = (max(each) for each in zip(*sampling, strict=True))
    units = -(-width // (8 * across)) * -(-height // (8 * down))
    blocks = units * sum(columns * rows for columns, rows in sampling)
    random = np.random.default_rng(blocks)
    bits = "".join(
        f"{length:04b}" + "".join(map(str, random.integers(0, 2, length))) + "0000"
        for length in random.integers(0, 5, blocks).tolist()
    )
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\0")
    frame = b"\x08" + height.to_bytes(2) + width.to_bytes(2) + bytes([len(sampling)])
    frame += b"".join(bytes([number, columns << 4 | rows, 0]) for number, (columns, rows) in enumerate(sampling, 1))
    codes = bytes([0, 0, 0, 8, *[0] * 12])
    parts = b"".join(bytes([number, 0]) for number in range(1, len(sampling) + 1))
    return b"".join(
        [
            b"\xff\xd8",
            make_segment(0xDB, bytes([0, *[9] * 64])),
            make_segment(0xC0, frame),
            make_segment(0xC4, b"\x00" + codes + bytes(range(8))),
            make_segment(0xC4, b"\x10" + codes + bytes(range(8))),
            make_segment(0xDA, bytes([len(sampling)]) + parts + b"\0\x3f\0"),
            scan,
            b"\xff\xd9",
        ]
    )


BLOCKS = tuple((columns, rows) for columns, rows in itertools.product((1, 2, 3, 4), repeat=2) if columns * rows <= 8)


@pytest.mark.parametrize("luma", BLOCKS)
def test_every_sampling_has_the_pixels_of_pillow(luma: tuple[int, int], tmp_path: Path) -> None:
    """Cameras write a few, and the library has no name for most."""
    path, decoded = tmp_path / "x.jpg", 0
    for chroma in BLOCKS:
        if luma[0] * luma[1] + 2 * chroma[0] * chroma[1] > 10:  # what the standard allows
            continue
        path.write_bytes(content := write_sampled((luma, chroma, chroma), (45, 37)))
        try:
            expected = decode_by_pillow(content, None)
        except OSError:
            continue
        assert np.array_equal(decode(str(path), None), expected.transpose(2, 0, 1)), chroma
        decoded += 1
    assert decoded


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
        content = content[:2] + make_segment(0xE1, xmp) + content[2:]
    content = content[:2] + make_segment(0xED, before) + content[2:]
    assert (decode_jpeg(content, None, "exif") is None) == turned
    assert decode_jpeg(content, None, "stored") is not None


USUAL = {0xC0, 0xC1, 0xC2, 0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE}


@pytest.mark.parametrize("orientation", ["exif", "stored"])
def test_what_hides_a_segment_is_left_to_pillow(orientation: str) -> None:
    """Libraries differ on which markers have a length, and so on where a segment starts, such as that of EXIF."""
    content = write(make_noise((40, 30)))
    for number in set(range(0x100)) - USUAL - {0xDA}:
        for before in (bytes([0xFF, number]), make_segment(number, b"12"), bytes([number])):
            assert decode_jpeg(content[:2] + before + content[2:], None, orientation) is None, (number, before)


def test_a_very_large_file_is_not_read_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    content = write(make_noise((40, 30)))
    monkeypatch.setattr(jpeg, "LARGEST", len(content))
    assert decode_jpeg(content, None, "exif") is not None
    assert decode_jpeg(content + b"0", None, "exif") is None
    monkeypatch.undo()
    with path.open("wb") as file:
        file.write(content)
        file.truncate(2**40)  # without blocks of the disk
    assert np.array_equal(decode(str(path), None), decode_by_pillow(content, None).transpose(2, 0, 1))
