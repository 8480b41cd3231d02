"""The pixels of a picture are those that Pillow gives, lent or copied."""

import gc

import numpy as np
import pytest
from PIL import Image

from dist_train.data.datasets.pixels import to_image, to_planes, view_pixels

SIZES = [(1, 1), (7, 5), (500, 375), (2, 3000), (1100, 4000)]  # the last one is more than a block of Pillow's memory


def draw(size: tuple[int, int]) -> Image.Image:
    width, height = size
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("is_lent", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_pixels_outlive_their_picture(size: tuple[int, int], is_lent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = draw(size)
    expected = np.asarray(picture).copy()
    if not is_lent:
        monkeypatch.delattr(Image.Image, "__arrow_c_array__", raising=False)  # as in older versions
    pixels = view_pixels(picture)
    del picture
    gc.collect()
    other = Image.new("RGB", size, "white")  # in the same memory, if that were free
    assert (pixels[..., :3] == expected).all()
    assert (to_planes(pixels) == expected.transpose(2, 0, 1)).all()
    del other


@pytest.mark.parametrize("size", SIZES)
def test_a_picture_of_pixels_is_one_with_three_colours(size: tuple[int, int]) -> None:
    picture = to_image(view_pixels(draw(size)))
    assert (picture.mode, picture.getbands(), picture.im.bands) == ("RGB", ("R", "G", "B"), 3)
    assert (np.asarray(picture) == np.asarray(draw(size))).all()


def test_pixels_of_a_common_picture_are_lent() -> None:
    picture = draw((500, 375))
    assert view_pixels(picture).__array_interface__["data"][0] == view_pixels(picture).__array_interface__["data"][0]
