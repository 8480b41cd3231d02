"""Draw samples of numbers as points, with what a run of a regression predicts."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dist_train.results.figure import BLACK, BLUE, GREY, VERMILION, draw_figure, to_drawable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure
    from numpy.typing import NDArray

    from dist_train.data.identity import TableFormat
    from dist_train.nest import Nest

SIDE = 2.8
"""Inches of a panel of points."""
MOST_COLUMNS = 12
"""Numbers of an input that are drawn, each in a panel of its own."""
_LABEL = 30
"""Characters of a name, at most."""
MOST = 10_000
"""Points of a picture."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Points:
    """Samples of one true number each."""

    inputs: "NDArray[Any] | None"
    """[N, D]; None if an input is not a few numbers."""
    truths: "NDArray[Any]"
    """[N]."""
    predictions: "NDArray[Any] | None" = None
    """[N]; None without a network."""
    columns: tuple[str, ...] = ()
    """Names of the numbers of an input; () where they have none."""
    target: str = "target"
    """Name of the true number."""


def to_points(
    inputs: "Nest", targets: "Nest", output: "Nest" = None, table: "TableFormat | None" = None
) -> Points | None:
    """Return samples as points; None if their targets are not one number each.

    Args:
        inputs, targets, output: of the network, for all samples.
        table: has the names of the columns.
    """
    from torch import Tensor

    from dist_train.tasks.output import align

    if not isinstance(targets, Tensor) or not targets.is_floating_point() or targets.numel() != len(targets):
        return None
    predictions = None
    if output is not None:
        if align(output, targets) is None:
            return None
        predictions = output.detach().cpu().double().flatten().numpy()
    is_few = isinstance(inputs, Tensor) and inputs.dim() <= 2 and inputs[0].numel() <= MOST_COLUMNS
    columns = inputs.detach().cpu().double().reshape(len(inputs), -1).numpy() if is_few else None
    truths = targets.detach().cpu().double().flatten().numpy()
    return Points(columns, truths, predictions, *((table.columns, table.target) if table else ()))


def find_points(run: Path, trust_code: bool) -> Points | None:
    """Return what a run predicts; None, and a warning, where that can't be computed."""
    import torch

    from dist_train.errors import UserError
    from dist_train.results.predictions import open_predictions
    from dist_train.tasks.output import select

    try:
        with open_predictions(run, trust_code=trust_code) as predictions:
            field, table = predictions.opened.config.loss.output, predictions.opened.dataset.identity.table
            batches = [
                (batch.inputs, batch.targets, select(batch.output, field)) for batch in predictions.batches(MOST)
            ]
    except UserError as error:
        _log.warning("there is no panel of predictions: %s", error)
        return None
    if not all(isinstance(each, torch.Tensor) for batch in batches for each in batch):
        return None
    inputs, targets, output = map(torch.cat, zip(*batches, strict=True))
    return to_points(inputs, targets, output, table)


def draw_fit(figure: "SubFigure", points: Points) -> None:
    """Draw predictions against the truth; for inputs of one number also predictions against the input."""
    has_line = points.inputs is not None and points.inputs.shape[1] == 1
    left, *right = figure.subplots(1, 2 if has_line else 1, squeeze=False)[0]
    assert points.predictions is not None  # noqa: S101
    _scatter(left, points.truths, points.predictions, BLUE)
    left.axline((points.truths.mean(),) * 2, slope=1, color=GREY, linestyle="--", linewidth=1, zorder=1)
    left.set(xlabel=f"true {to_drawable(points.target, _LABEL)}", ylabel="prediction")
    for axes in right:
        _draw_column(axes, points, 0)


def draw_points(points: Points, path: Path) -> None:
    """Write a picture of the truth against each number of the inputs, with what is predicted."""
    assert points.inputs is not None  # noqa: S101
    count = points.inputs.shape[1]
    columns = min(count, 4)
    rows = -(-count // columns)
    with draw_figure(path, max(4.0, SIDE * columns), SIDE * rows) as figure:
        figure.set_layout_engine("constrained")
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
        for number, axes in enumerate(panels):
            if number < count:
                _draw_column(axes, points, number)
                if number % columns:
                    axes.set_ylabel("")
            else:
                axes.set_axis_off()


def _draw_column(axes: "Axes", points: Points, number: int) -> None:
    assert points.inputs is not None  # noqa: S101
    along = points.inputs[:, number]
    _scatter(axes, along, points.truths, BLACK if points.predictions is None else BLUE, "truth")
    if points.predictions is not None:
        if points.inputs.shape[1] == 1:
            order = along.argsort()
            axes.plot(along[order], points.predictions[order], color=VERMILION, label="prediction")
        else:
            _scatter(axes, along, points.predictions, VERMILION, "prediction", "x")
        axes.legend()
    name = points.columns[number] if points.columns else f"input {number + 1}"
    axes.set(xlabel=to_drawable(name, _LABEL), ylabel=to_drawable(points.target, _LABEL))


def _scatter(axes: "Axes", along: Any, up: Any, colour: str, label: str = "", marker: str = "o") -> None:
    look: dict[str, Any] = {"facecolors": "none", "edgecolors": colour} if marker == "o" else {"color": colour}
    look |= {"s": 10 if len(along) < 1000 else 3, "linewidths": 0.7, "rasterized": len(along) > 2000}
    axes.scatter(along, up, marker=marker, label=label or None, **look)
