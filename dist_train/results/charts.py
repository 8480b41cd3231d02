"""Draw the curves of runs: a panel for each number, the steps below."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dist_train.errors import ConfigError
from dist_train.eval_line import find_mode, is_fraction
from dist_train.results import import_extra
from dist_train.results.curves import TRAINING, Curve, RunCurves
from dist_train.results.figure import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    draw_figure,
    to_drawable,
)
from dist_train.results.points import SIDE, Points, draw_fit
from dist_train.system.escape import escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

_WIDTH, _HEIGHT = 6.5, 2.0
"""Inches of a panel."""
_LEGEND_LINE = 0.18
_LABEL = 60
"""Characters of a run's label, at most."""
_SCORES = ("accuracy", "exact_match", "rmse", "mae")
"""Numbers that may be drawn beside the loss: the first that an evaluation has."""
_DECADES = 1.7
"""The loss is drawn on a logarithmic scale where it spans more powers of ten."""


_SOURCES = (TRAINING, "validation", "test")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), "-.")
"""Line styles by source of the numbers: TRAINING, validation, test, others."""
_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
"""Colours of runs; in a chart of a single run, of the sources of its numbers."""
_MARKERS = "os^DvPX"
"""Markers, assigned like colours, for print."""
_UNITS = {"lr": "learning rate", "samples_per_second": "samples / s"}


def choose_names(runs: Sequence[RunCurves], wanted: Sequence[str] = ()) -> list[str]:
    """Return the numbers to draw: those wanted, or loss, a score and the learning rate.

    Raises:
        ConfigError: no run has one of those wanted.
    """
    known = set[str]().union(*(run.names() for run in runs))
    if unknown := [name for name in wanted if name not in known]:
        raise ConfigError(
            f"--numbers {escape(unknown[0])}: no run has it; they have {escape(', '.join(sorted(known)))}"
        )
    if wanted:
        return list(dict.fromkeys(wanted))
    others = sorted(known - {"loss", *_UNITS})
    scores = [name for name in (*_SCORES, *others) if name in known]
    return [name for name in ("loss", *scores[:1], "lr") if name in known]


def draw_curves(runs: Sequence[RunCurves], names: Sequence[str], path: Path, points: Points | None = None) -> None:
    """Write a picture of the numbers of these names, runs laid over each other.

    Args:
        points: what a run of a regression predicts, drawn below.

    Raises:
        ConfigError: as `draw_figure`.
    """
    looks = _Looks(runs)
    of_runs = [(run.label, looks.of_run(number)) for number, run in enumerate(runs) if len(runs) > 1]
    of_sources = list(_list_sources(runs, names, looks))
    columns, rows = _arrange([label for label, _ in of_runs])
    heights = [_HEIGHT * len(names) + 0.7 + _LEGEND_LINE * rows, *([SIDE] if points else [])]
    with draw_figure(path, _WIDTH, sum(heights)) as figure:
        figure.set_layout_engine("constrained")
        above, *below = figure.subfigures(len(heights), squeeze=False, height_ratios=heights)[:, 0]
        panels = above.subplots(len(names), sharex=True, squeeze=False)[:, 0]
        for axes, name in zip(panels, names, strict=True):
            for number, run in enumerate(runs):
                _draw_run(axes, run, name, looks, number)
            _label(axes, name, [curve for run in runs for key, curve in run.curves.items() if key[0] == name])
        _label_steps(panels[-1])
        if of_runs:
            _write_legend(above, of_sources, len(of_sources), "upper")
            _write_legend(above, of_runs, columns, "lower")
        else:
            above.suptitle(to_drawable(runs[0].label, _LABEL), fontsize="medium")
            _write_legend(above, of_sources, len(of_sources), "lower")
        if points:
            draw_fit(below[0], points)


class _Looks:
    """Style of lines: runs differ in colour and marker, sources of numbers in dashes."""

    def __init__(self, runs: Sequence[RunCurves]) -> None:
        self._is_single = len(runs) == 1
        self._colours = _choose_colours(len(runs))

    def of_run(self, number: int) -> dict[str, Any]:
        return {"color": self._colours[number], **_mark(number)}

    def of_source(self, source: str) -> dict[str, Any]:
        place = _place(source)
        look = {"color": GREY, "linestyle": _DASHES[place]}
        return look | {"color": _COLOURS[place], **_mark(place)} if self._is_single else look

    def of_line(self, number: int, source: str) -> dict[str, Any]:
        return self.of_source(source) if self._is_single else self.of_source(source) | self.of_run(number)

    def of_restarts(self, number: int) -> dict[str, Any]:
        return {"color": GREY if self._is_single else self._colours[number], "linestyle": ":", "linewidth": 0.8}


def _place(source: str) -> int:
    return _SOURCES.index(source) if source in _SOURCES else len(_SOURCES)


def _mark(number: int) -> dict[str, Any]:
    return {"marker": _MARKERS[number % len(_MARKERS)], "markersize": 4, "markerfacecolor": "white"}


def _choose_colours(count: int) -> list[str]:
    if count <= len(_COLOURS):
        return list(_COLOURS[:count])
    colours, to_hex = import_extra("matplotlib", "plot").colormaps["viridis"], import_extra("matplotlib.colors", "plot")
    return [to_hex.to_hex(colours(0.95 * number / (count - 1))) for number in range(count)]


def _list_sources(
    runs: Sequence[RunCurves], names: Sequence[str], looks: _Looks
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the entries of the legend for sources: text and style."""
    found = {source for run in runs for name, source in run.curves if name in names}
    for source in sorted(found, key=lambda each: (_place(each), each)):
        yield source, looks.of_source(source)
    if any(run.restarts for run in runs):
        yield "restart", {"color": GREY, "linestyle": ":", "linewidth": 0.8}


def _arrange(labels: Sequence[str]) -> tuple[int, int]:
    """Return columns and rows of a legend."""
    longest = max((min(_LABEL, len(label)) for label in labels), default=1)
    columns = max(1, min(4, len(labels), 88 // (longest + 7)))
    return columns, math.ceil(len(labels) / columns)


def _write_legend(figure: "SubFigure", entries: Sequence[tuple[str, dict[str, Any]]], columns: int, where: str) -> None:
    line = import_extra("matplotlib.lines", "plot").Line2D
    handles = [line([], [], **look) for _, look in entries]
    numbers = [str(number) for number in range(len(handles))]  # a text that begins with _ would be left out
    place: Any = f"outside {where} center"
    legend = figure.legend(handles, numbers, loc=place, ncols=columns, handlelength=3)
    for shown, (text, _) in zip(legend.get_texts(), entries, strict=True):
        shown.set_text(to_drawable(text, _LABEL))


def _draw_run(axes: "Axes", run: RunCurves, name: str, looks: _Looks, number: int) -> None:
    for (found, source), curve in run.curves.items():
        if found == name:
            _draw_curve(axes, curve, looks.of_line(number, source))
    for step in run.restarts:
        axes.axvline(step, zorder=1, **looks.of_restarts(number))


def _draw_curve(axes: "Axes", curve: Curve, look: dict[str, Any]) -> None:
    shown = curve.thin()
    if shown.low is not None and shown.high is not None:
        axes.fill_between(shown.steps, shown.low, shown.high, color=look["color"], alpha=0.2, linewidth=0)
    count = len(shown.steps)
    axes.plot(shown.steps, shown.values, markevery=max(1, count // 12), **look)


def _label(axes: "Axes", name: str, curves: Sequence[Curve]) -> None:
    ticker = import_extra("matplotlib.ticker", "plot")
    axes.set_ylabel(_UNITS.get(name, f"{name} (%)" if is_fraction(name) else to_drawable(name, 30)))
    if is_fraction(name):
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}")
    elif name == "lr":
        highest = max((value for curve in curves for value in curve.finite()), default=0.0)
        axes.set_ylim(0, 1.05 * highest or None)
    elif _spans_decades(name, curves):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())


def _label_steps(axes: "Axes") -> None:
    ticker = import_extra("matplotlib.ticker", "plot")
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _spans_decades(name: str, curves: Sequence[Curve]) -> bool:
    """Return whether a loss or error needs a logarithmic axis: it is positive and falls by several powers of ten."""
    values = [value for curve in curves for value in curve.finite()]
    is_positive = find_mode(name) == "min" and bool(values) and min(values) > 0
    return is_positive and math.log10(max(values) / min(values)) > _DECADES
