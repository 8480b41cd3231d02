"""Pictures for TensorBoard: each sample is shown, mistakes are framed, and no name breaks them."""

import io

import numpy as np
import pytest
from PIL import Image

from dist_train.monitoring.event_records import Picture
from dist_train.monitoring.pictures import SampleSheet, draw_confusion

VERMILION = (213, 94, 0)
NAMES = ("cat", "\u732b", "a\nb\x1b[31m", "x" * 500, "", "\udcff")


def pixels(picture: Picture) -> Image.Image:
    found = Image.open(io.BytesIO(picture.png))
    assert found.size == (picture.width, picture.height)
    return found


@pytest.mark.parametrize("shape", [(28, 28), (8, 8, 3), (300, 200, 3), (1, 500), (500, 1, 3)])
@pytest.mark.parametrize("count", [1, 5, 16])
def test_samples_are_drawn_at_any_size(shape: tuple[int, ...], count: int) -> None:
    sheet = SampleSheet([np.full(shape, 40 + number, np.uint8) for number in range(count)])
    found = pixels(sheet.draw([(NAMES[number % 6], "says 8", False) for number in range(count)]))
    colours = {colour for _, colour in found.getcolors(2**24) or []}
    assert {(40 + number,) * 3 for number in range(count)} <= colours
    assert VERMILION not in colours
    framed = pixels(sheet.draw([("cat", "dog", number == 0) for number in range(count)]))
    assert VERMILION in {colour for _, colour in framed.getcolors(2**24) or []}


@pytest.mark.parametrize("classes", [NAMES, tuple("0123456789"), tuple(map(str, range(100)))])
def test_a_table_of_any_classes_is_drawn(classes: tuple[str, ...]) -> None:
    counts = np.eye(len(classes), dtype=int) * 12_345
    counts[0, 0] = 0
    found = pixels(draw_confusion(counts.tolist(), classes))
    blue = sum(number for number, colour in found.getcolors(2**24) or [] if colour == (0, 114, 178))
    assert blue > 20 * (len(classes) - 1)
