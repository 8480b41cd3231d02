"""A grid has each picture in its cell, and mistakes in a frame."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dist_train.results.grid import draw_grid


@pytest.mark.parametrize("count", [1, 7])
def test_each_picture_is_there_with_a_frame_around_mistakes(tmp_path: Path, count: int) -> None:
    sizes = [(8, 8), (8, 20, 3), (20, 8, 3), (1, 1), (300, 200, 3)]
    pictures = [np.full(sizes[number % 5], 10 * number + 5, np.uint8) for number in range(count)]
    captions = [(f"#{number}: $a_{number}", "猫", "c") for number in range(count)]
    path = tmp_path / "grid.png"
    draw_grid(pictures, captions, path)
    plain = np.asarray(Image.open(path).convert("RGB"))
    for number in range(count):
        assert (plain == 10 * number + 5).all(axis=2).sum() > 500
    draw_grid(pictures, captions, path, [number == 0 for number in range(count)])
    framed = np.asarray(Image.open(path).convert("RGB"))
    vermilion = (213, 94, 0)
    assert not (plain == vermilion).all(axis=2).any()
    assert (framed == vermilion).all(axis=2).sum() > 200
    rows, columns = np.nonzero((framed == vermilion).all(axis=2))
    assert max(rows) < 300
    assert max(columns) < 300
