"""Draw pictures side by side, with captions."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dist_train.results.figure import BLACK, VERMILION, draw_figure, to_drawable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_CELL = 1.25
"""Inches of a picture's longer side."""
_GAP = 0.15
_LINE = 0.14
"""Inches from one line of a caption to the next."""
_LINES = 3
_LETTERS = 22
"""The most letters in a line of a caption."""


def draw_grid(
    pictures: "Sequence[NDArray[Any]]", captions: Sequence[Sequence[str]], path: Path, wrong: Sequence[bool] = ()
) -> None:
    """Write a grid of pictures to `path`, row by row; each is scaled to its cell.

    Args:
        pictures: uint8 [H, W] or [H, W, 3]; at least one, of any sizes.
        captions: the lines below each picture, three at most; foreign names may be in them.
        path: its ending chooses the format: .png, .svg or .pdf.
        wrong: whether each is a mistake, which gets a frame.

    Raises:
        ConfigError: the name has another ending, nothing can be written there, or matplotlib is missing.
    """
    columns, rows = _arrange(len(pictures))
    below = _GAP + _LINE * min(_LINES, max(map(len, captions)))
    width, height = columns * (_CELL + _GAP) + _GAP, rows * (_CELL + below) + _GAP
    with draw_figure(path, width, height) as figure:
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        for number, (picture, lines) in enumerate(zip(pictures, captions, strict=True)):
            row, column = divmod(number, columns)
            left, top = _GAP + column * (_CELL + _GAP), _GAP + row * (_CELL + below)
            is_wrong = bool(wrong) and wrong[number]
            _draw_picture(axes, picture, left, top, is_wrong)
            for line, text in enumerate(lines[:_LINES]):
                axes.text(
                    left + _CELL / 2, top + _CELL + (line + 0.85) * _LINE, to_drawable(text, _LETTERS),
                    ha="center", va="baseline", fontsize=7.5, color=VERMILION if is_wrong else BLACK,
                )  # fmt: skip
        axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto")


def _arrange(count: int) -> tuple[int, int]:
    """Return columns and rows, a little wider than high."""
    columns = min(count, max(4, math.ceil(math.sqrt(1.4 * count))))
    return columns, math.ceil(count / columns)


def _draw_picture(axes: "Axes", picture: "NDArray[Any]", left: float, top: float, is_framed: bool) -> None:
    height, width = picture.shape[:2]
    side = max(height, width)
    across, down = _CELL * width / side, _CELL * height / side
    left, top = left + (_CELL - across) / 2, top + (_CELL - down) / 2
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255, extent=(left, left + across, top + down, top))
    if is_framed:
        x, y = (left, left + across, left + across, left, left), (top, top, top + down, top + down, top)
        axes.plot(x, y, color=VERMILION, linewidth=2)
