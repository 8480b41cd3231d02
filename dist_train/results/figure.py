"""Figures of matplotlib in one style, written whole or not at all.

Colours are those of Okabe and Ito, which the colour-blind can distinguish; lines differ in their style too, for print.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dist_train.errors import ConfigError
from dist_train.results import import_extra
from dist_train.results.output_file import check_writable, write_whole
from dist_train.system.escape import escape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = COLOURS = (
    *("#000000", "#E69F00", "#56B4E9", "#009E73"),
    *("#F0E442", "#0072B2", "#D55E00", "#CC79A7"),
)
"""The colours of Okabe and Ito."""
GREY = "#808080"
FORMATS = (".png", ".svg", ".pdf")
_FONT = "DejaVu Sans"  # comes with matplotlib
_STYLE = {
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": _FONT,
    "font.size": 9,
    "grid.color": "#E0E0E0",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "pdf.fonttype": 42,
    "savefig.dpi": 150,
    "svg.hashsalt": "dist-train",  # the same picture has the same bytes
    "text.parse_math": False,  # a dollar in a name is one
}
_UNDATED = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


def check_destination(path: Path) -> None:
    """Check, before anything is computed, that a picture can be written.

    Raises:
        ConfigError: its name has another ending than FORMATS, or no file can be created there.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"-o {escape(path)}: the name must end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    check_writable(path)


@contextmanager
def draw_figure(path: Path, width: float, height: float) -> Iterator["Figure"]:
    """Give an empty figure of this size in inches, and write it to `path` when the block ends.

    Raises:
        ConfigError: as `check_destination`, or matplotlib is missing.
    """
    check_destination(path)
    matplotlib, module = import_extra("matplotlib", "plot"), import_extra("matplotlib.figure", "plot")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = module.Figure(figsize=(width, height))
        yield figure
        _write(figure, path)


def _write(figure: "Figure", path: Path) -> None:
    suffix, drawn = path.suffix.lower(), io.BytesIO()
    figure.savefig(drawn, format=suffix[1:], metadata=_UNDATED[suffix])
    write_whole(path, drawn.getvalue())


def to_drawable(text: object, limit: int) -> str:
    """Return foreign text on one line, at most `limit` long, with escapes for what the font can't draw."""
    shown = escape(text, limit)
    if not shown.isascii():
        glyphs = _list_glyphs()
        shown = "".join(
            each if ord(each) in glyphs else each.encode("unicode_escape").decode("ascii") for each in shown
        )
    return escape(shown, limit)


def _list_glyphs() -> frozenset[int]:
    """Return the numbers of the characters that the font has."""
    manager = import_extra("matplotlib.font_manager", "plot")
    return frozenset(manager.get_font(manager.findfont(_FONT)).get_charmap())
