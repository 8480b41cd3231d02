"""Small pictures for TensorBoard: samples with predictions, and the confusion matrix.

Blue and vermilion of Okabe and Ito, which the colour-blind can distinguish.
"""

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dist_train.monitoring.event_records import Picture
from dist_train.system.escape import escape

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_BLUE, _VERMILION = (0, 114, 178), (213, 94, 0)
_CELL = 72
"""Pixels of the longer side of a sample."""
_GAP, _LINE, _LETTERS = 6, 12, 12
_FIELD, _SMALL_FIELD = 26, 6
"""Pixels of a field of the table."""
_LETTER = 6
"""Pixels from a letter to the next."""
_MOST_NAMED = 20
"""Classes whose names and counts are written."""


class SampleSheet:
    """Draws the same samples after each evaluation, with new captions."""

    def __init__(self, pictures: "Sequence[NDArray[Any]]") -> None:
        """`pictures`: uint8 [H, W] or [H, W, 3]."""
        from PIL import Image

        self._columns = min(4, len(pictures))
        self._height = _CELL + 2 * _LINE + _GAP
        rows = math.ceil(len(pictures) / self._columns)
        size = (_GAP + self._columns * (_CELL + _GAP), _GAP + rows * self._height)
        self._sheet = Image.new("RGB", size, _WHITE)
        for number, pixels in enumerate(pictures):
            height, width = pixels.shape[:2]
            shown = Image.fromarray(pixels)
            scale = _CELL / max(height, width)
            fitted = (max(1, round(width * scale)), max(1, round(height * scale)))
            filter_ = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
            left, top = self._corner(number)
            at = (left + (_CELL - fitted[0]) // 2, top + (_CELL - fitted[1]) // 2)
            self._sheet.paste(shown.resize(fitted, filter_).convert("RGB"), at)

    def draw(self, captions: Sequence[tuple[str, str, bool]]) -> Picture:
        """Return the samples with two lines below each; those with a mistake have a frame."""
        from PIL import ImageDraw

        sheet = self._sheet.copy()
        pen = ImageDraw.Draw(sheet)
        for number, (first, second, is_wrong) in enumerate(captions):
            left, top = self._corner(number)
            if is_wrong:
                pen.rectangle((left - 2, top - 2, left + _CELL + 1, top + _CELL + 1), outline=_VERMILION, width=2)
            for line, text in enumerate((first, second)):
                at = (left, top + _CELL + 1 + line * _LINE)
                pen.text(at, _to_ascii(text, _LETTERS), fill=_VERMILION if is_wrong else _BLACK)
        return _encode(sheet)

    def _corner(self, number: int) -> tuple[int, int]:
        row, column = divmod(number, self._columns)
        return _GAP + column * (_CELL + _GAP), _GAP + row * self._height


def draw_confusion(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> Picture:
    """Return a picture of a confusion matrix: the darker a field, the larger its share of the row, the true class.

    Args:
        counts: how often each true class, a row, was predicted as each class, a column; at most a hundred classes fit.
        classes: names of the classes.
    """
    from PIL import Image, ImageDraw

    names = [_to_ascii(name, _LETTERS) for name in classes] if len(classes) <= _MOST_NAMED else []
    field = _FIELD if names else _SMALL_FIELD
    margin = _LETTER * max(map(len, names), default=0) + _GAP
    side = margin + len(counts) * field
    table = Image.new("RGB", (max(side, 100), side + 2 * _LINE + _GAP), _WHITE)
    pen = ImageDraw.Draw(table)
    for row, taken in enumerate(counts):
        total = sum(taken)
        for column, count in enumerate(taken):
            share = count / total if total else 0.0
            left, top = margin + column * field, margin + row * field
            pen.rectangle((left, top, left + field - 2, top + field - 2), fill=_mix(_WHITE, _BLUE, share))
            if names and count:
                text = str(count) if count < 10_000 else f"{count // 1000}k"
                at = (left + (field - _LETTER * len(text)) // 2, top + field // 2 - 6)
                pen.text(at, text, fill=_WHITE if share > 0.5 else _BLACK)
    for number, name in enumerate(names):
        pen.text((2, margin + number * field + field // 2 - 7), name, fill=_BLACK)
        table.paste(_turn(name, margin, is_upright=margin <= 3 * _LETTER + _GAP), (margin + number * field + 6, 0))
    for line, text in enumerate(("rows: true class", "columns: prediction")):
        pen.text((2, side + line * _LINE), text, fill=_BLACK)
    return _encode(table)


def _turn(name: str, length: int, is_upright: bool) -> "Image":
    """Return a picture of the name above a column."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (length, length if is_upright else _LINE + 2), _WHITE)
    ImageDraw.Draw(picture).text((4, length - _LINE - 3 if is_upright else 0), name, fill=_BLACK)
    return picture if is_upright else picture.transpose(Image.Transpose.ROTATE_90)


def _mix(one: tuple[int, int, int], other: tuple[int, int, int], share: float) -> tuple[int, ...]:
    return tuple(round(a + (b - a) * share) for a, b in zip(one, other, strict=True))


def _to_ascii(text: str, limit: int) -> str:
    """Return foreign text in the letters that PIL's own font has."""
    return escape(escape(text).encode("ascii", "backslashreplace").decode("ascii"), limit)


def _encode(picture: "Image") -> Picture:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return Picture(picture.width, picture.height, file.getvalue())
