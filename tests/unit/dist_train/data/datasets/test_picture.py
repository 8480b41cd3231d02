"""Every picture is read as a viewer shows it, or refused by name."""

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from PIL import Image

from dist_train.data.datasets import picture
from dist_train.data.datasets.picture import ENDINGS, FORMATS, decode, from_picture
from dist_train.data.datasets.pixels import Pixels
from dist_train.errors import DataError

SIDE = 16
WHITE, BLACK = 255, 0
SHOWN = {"1", "L", "P", "PA", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "LAB", "I", "I;16", "I;16B"}
"""Modes of files of which at least one format is read."""


def halves(mode: str) -> Image.Image:
    """White on the left, black on the right, in one of Pillow's modes."""
    white = np.zeros((SIDE, SIDE), bool)
    white[:, : SIDE // 2] = True
    if mode in ("I", "F") or mode.startswith("I;16"):
        dtype = {"I": "<i4", "F": "<f4", "I;16B": ">u2"}.get(mode, "<u2")
        return Image.frombytes(mode, (SIDE, SIDE), (white * 65535).astype(dtype).tobytes())
    if mode == "LAB":
        bands = np.stack([white * 255, white * 0, white * 0], axis=-1)  # a and b are signed
        return Image.frombytes(mode, (SIDE, SIDE), bands.astype(np.uint8).tobytes())
    image = Image.fromarray((white * 255).astype(np.uint8)).convert("RGB")
    for step in {"PA": ("P", "PA"), "La": ("LA", "La"), "RGBa": ("RGBA", "RGBa")}.get(mode, (mode,)):
        image = image.convert(step)
    return image


def written(mode: str) -> Iterator[tuple[str, bytes]]:
    """The picture in each format that can be written in this mode."""
    Image.init()
    for name in FORMATS:
        file = io.BytesIO()
        try:
            halves(mode).save(file, name, **({"quality": 100} if name in ("JPEG", "WEBP", "AVIF") else {}))
        except (OSError, KeyError, ValueError):  # that format has no such mode
            continue
        yield name, file.getvalue()


def read(path: Path, content: bytes) -> Pixels:
    path.write_bytes(content)
    return decode(str(path), None)


@pytest.mark.parametrize("mode", Image.MODES)
def test_every_mode_is_shown_or_refused_by_name(tmp_path: Path, mode: str) -> None:
    has_shown = False
    for name, content in written(mode):
        (tmp_path / "x.png").write_bytes(content)
        pixels = shown_or_refused(tmp_path / "x.png")
        if pixels is None:
            continue
        has_shown = True
        assert abs(pixels[:, :, : SIDE // 2 - 2] - WHITE).max() <= 3, name
        assert abs(pixels[:, :, SIDE // 2 + 2 :] - BLACK).max() <= 3, name
    assert has_shown or mode not in SHOWN


def shown_or_refused(path: Path) -> Pixels | None:
    """The pixels, as int64; None if the file is refused by its name and mode."""
    try:
        return decode(str(path), None).astype(int)
    except DataError as error:
        said = str(error)
    assert said.startswith(f"{path}: ")
    assert "mode" in said
    return None


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA", "P"])
@pytest.mark.parametrize("name", ["PNG", "TIFF", "WEBP", "GIF"])
def test_transparent_parts_are_over_white(tmp_path: Path, mode: str, name: str) -> None:
    """The hidden colour is black: left out, it would be a black picture."""
    image = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
    image.paste((200, 0, 0, 255), (0, 0, SIDE // 2, SIDE))
    file = io.BytesIO()
    try:
        image.convert(mode).save(file, name, **({"lossless": True} if name == "WEBP" else {}))
    except (OSError, ValueError):
        pytest.skip(f"{name} has no mode {mode}")
    with Image.open(file) as stored:
        is_transparent = stored.convert("RGBA").getchannel("A").getextrema()[0] == 0
    pixels = read(tmp_path / "x", file.getvalue())
    assert (pixels[:, :, -1] == (WHITE if is_transparent else BLACK)).all()


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
@pytest.mark.parametrize("name", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_to_the_full_range(tmp_path: Path, dtype: str, name: str) -> None:
    values = np.linspace(0, 65535, SIDE * SIDE).reshape(SIDE, SIDE).round().astype(dtype)
    mode = "I;16" if dtype == "<u2" else "I;16B"
    file = io.BytesIO()
    try:
        Image.frombytes(mode, (SIDE, SIDE), values.tobytes()).save(file, name)
    except (OSError, ValueError):
        pytest.skip(f"{name} has no mode {mode}")
    expected = (values.astype(float) / 257).round()
    assert abs(read(tmp_path / "x", file.getvalue()) - expected).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_picture_is_turned_as_exif_says(tmp_path: Path, orientation: int, name: str) -> None:
    """Cameras store the pixels as the sensor lies. Pillow itself turns TIFF."""
    image = Image.new("RGB", (24, 16))
    image.paste((255, 255, 255), (0, 0, 12, 8))
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = image.transpose(back[orientation]) if orientation in back else image
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "x"
    stored.save(path, name, exif=exif)
    assert abs(decode(str(path), None).astype(int) - np.asarray(image).transpose(2, 0, 1)).mean() < 6
    as_stored = decode(str(path), None, orientation="stored")
    assert name == "TIFF" or abs(as_stored.astype(int) - np.asarray(stored).transpose(2, 0, 1)).mean() < 6


@pytest.mark.parametrize("name", ["GIF", "PNG", "TIFF", "WEBP"])
def test_a_file_with_several_pictures_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x"
    frames = [Image.new("RGB", (8, 8), (level, 0, 0)) for level in (0, 90, 250)]
    frames[0].save(path, name, save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="holds 3 pictures"):
        decode(str(path), None)


def test_a_format_that_starts_programs_is_not_opened(tmp_path: Path) -> None:
    """Pillow shows PostScript by Ghostscript, whatever the ending."""
    path = tmp_path / "x.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    with pytest.raises(DataError, match="is not a readable image"):
        decode(str(path), None)


def test_endings_are_of_formats_that_are_read() -> None:
    Image.init()
    for ending in ENDINGS:
        known = Image.EXTENSION.get(ending)
        assert known in FORMATS or ending == ".avif", ending


def photograph(mode: str, size: tuple[int, int]) -> Image.Image:
    """Smooth colours with edges and some noise."""
    width, height = size
    x, y = np.meshgrid(np.arange(width) / width, np.arange(height) / height)
    bands = [np.sin(5 * x + band) + np.cos(7 * y * x - band) + (x + y > 1) for band in range(3)]
    noise = np.random.default_rng(0).normal(scale=4, size=(height, width, 3))
    pixels = (np.stack(bands, axis=-1) + 2) * 50 + noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [(500, 375), (375, 500), (401, 301), (640, 639), (97, 1000)])
def test_a_jpeg_is_decoded_at_a_part_of_its_size(
    tmp_path: Path, mode: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At least twice the pixels that are needed are left, and so the result is that of the whole picture nearly."""
    path, decoded = tmp_path / "x.jpg", list[tuple[int, ...]]()
    photograph(mode, size).save(path, quality=92)
    cut = picture._cut_square

    def note(pixels: Pixels) -> Pixels:
        decoded.append(pixels.shape[1::-1])
        return cut(pixels)

    monkeypatch.setattr(picture, "_cut_square", note)
    with Image.open(path) as file:
        whole = file.convert("RGB")
    for side in (12, 24, 47, 93, 94):
        part = next(part for part in (8, 4, 2, 1) if part == 1 or min(size) // (2 * side) >= part)
        found = decode(str(path), side)
        assert decoded.pop() == tuple(-(-pixels // part) for pixels in size)
        difference = abs(found.astype(int) - from_picture(whole, side))
        assert difference.max() <= (0 if part == 1 else 20)
        assert difference.mean() <= (0 if part == 1 else 2.5)


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (40, 40), (90, 31)])
@pytest.mark.parametrize("side", [7, 32, 300])
def test_scaling_is_that_of_pillow(size: tuple[int, int], side: int) -> None:
    whole = photograph("RGB", size)
    left, top = ((length - min(size)) // 2 for length in size)
    square = whole.crop((left, top, left + min(size), top + min(size)))
    expected = np.asarray(square.resize((side, side), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert abs(from_picture(whole, side).astype(int) - expected).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_part_of_a_jpeg_is_turned_too(tmp_path: Path, orientation: int) -> None:
    stored, exif, path = photograph("RGB", (400, 300)), Image.Exif(), tmp_path / "x.jpg"
    exif[0x0112] = orientation
    stored.save(path, exif=exif, quality=92)
    with Image.open(path) as whole:
        expected = from_picture(whole, 32)
    assert abs(decode(str(path), 32).astype(int) - expected).mean() <= 1.5
    assert (abs(decode(str(path), 32, "stored").astype(int) - expected).mean() <= 1.5) == (orientation == 1)


@pytest.mark.parametrize("side", [None, 16, 224])
def test_a_damaged_jpeg_is_named(tmp_path: Path, side: int | None) -> None:
    path = tmp_path / "x.jpg"
    photograph("RGB", (500, 375)).save(path, quality=92)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(DataError, match=r"x\.jpg: is not a readable image \(image file is truncated"):
        decode(str(path), side)


def test_sixteen_bits_are_scaled_after_they_are_eight(tmp_path: Path) -> None:
    values = (np.asarray(photograph("L", (90, 60))).astype("<u2") * 257).tobytes()
    Image.frombytes("I;16", (90, 60), values).save(tmp_path / "x.png")
    assert np.array_equal(decode(str(tmp_path / "x.png"), 20), from_picture(photograph("L", (90, 60)), 20))


def make_large(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)  # without blocks of the disk


def make_namesake(path: Path) -> None:
    path.with_name("y.jpg").touch()


NO_PICTURES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a pipe": (os.mkfifo, "not a regular file"),
    "endless": (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "a folder": (Path.mkdir, "Is a directory"),
    "missing": (make_namesake, r"No such file or directory \(did you mean .*y\.jpg\?\)"),
    "empty": (Path.touch, "of no known format"),
    "of 1 TiB": (make_large, "of no known format"),
}


@pytest.mark.parametrize("name", NO_PICTURES)
def test_what_is_no_picture_is_named_at_once(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.jpg"
    make, reason = NO_PICTURES[name]
    make(path)
    with pytest.raises(DataError, match=rf"x\.jpg: is not a readable image \({reason}\); replace or remove it"):
        decode(str(path), None)


@pytest.mark.parametrize("error", [KeyError(6), MemoryError(), IndexError("index 3")])
def test_an_error_without_a_sentence_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> NoReturn:
        raise error

    (tmp_path / "x.jpg").touch()
    monkeypatch.setattr(picture, "decode_jpeg", fail)
    with pytest.raises(DataError, match=type(error).__name__):
        decode(str(tmp_path / "x.jpg"), None)
