"""Charts of any runs are drawn without a warning; what is in them is chosen by what the runs have."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from dist_train.errors import ConfigError
from dist_train.results import charts
from dist_train.results.charts import choose_names, draw_curves
from dist_train.results.curves import TRAINING, Curve, RunCurves
from dist_train.results.points import Points, draw_points


def make(label: str, restarts: tuple[int, ...] = (), **numbers: Sequence[float]) -> RunCurves:
    """Curves whose names are `number__source`."""
    curves = {}
    for key, values in numbers.items():
        curve = Curve()
        for step, value in enumerate(values, start=1):
            curve.add(step, value)
        name, _, source = key.partition("__")
        curves[name, source or TRAINING] = curve
    return RunCurves(label, curves, restarts)


NAN = float("nan")
RUNS = {
    "usual": [make("_r$un$", (2, 3), loss=(5, 1, 0.01), lr=(0.1, 0.1, 0), loss__test=(1, 2), accuracy__test=(0.5, 1))],
    "one_line": [make("run", loss=(0.5,), lr=(0.1,))],
    "only_evaluations": [make("run", loss__validation=(1, 2), rmse__validation=(1, 2))],
    "not_finite": [make("run", loss=(NAN, NAN), lr=(0.1, 0.1), loss__test=(NAN,), accuracy__test=(NAN,))],
    "huge": [make("run", loss=(1e300, 1e-300), lr=(1e-9, 1e-12), loss__other=(0, -1))],
    "many_points": [make("run", loss=range(1, 20_000), lr=[0.1] * 20_000)],
    "different": [make("猫", loss=(1, 2), accuracy__test=(0.5,)), make("b\n", loss=(2, 1), rmse__test=(0.5,))],
    "many_runs": [make("x" * 200 + str(number), (1,), loss=(1, number + 1)) for number in range(30)],
}


@pytest.mark.parametrize("name", RUNS)
def test_any_runs_are_drawn(tmp_path: Path, name: str) -> None:
    path = tmp_path / "curves.png"
    draw_curves(RUNS[name], choose_names(RUNS[name]), path)
    assert path.stat().st_size > 5000


@pytest.mark.parametrize("rates", [(0.002, 0.00199), (0.1,), (0.0, 0.0), (NAN,)])
def test_learning_rates_begin_at_0_and_stay_below_the_top(rates: tuple[float, ...]) -> None:
    run = make("run", lr=rates)
    axes = Figure().add_subplot()
    axes.plot(rates)
    charts._label(axes, "lr", list(run.curves.values()))
    bottom, top = axes.get_ylim()
    assert bottom == 0
    assert all(rate < 0.98 * top for rate in rates if rate > 0)


@pytest.mark.parametrize("suffix", [".svg", ".pdf"])
def test_a_chart_is_drawn_for_print(tmp_path: Path, suffix: str) -> None:
    draw_curves(RUNS["usual"], ["loss"], tmp_path / f"curves{suffix}")
    assert (tmp_path / f"curves{suffix}").stat().st_size > 5000


def test_loss_a_score_and_the_learning_rate_are_drawn_or_what_is_asked_for() -> None:
    assert choose_names(RUNS["usual"]) == ["loss", "accuracy", "lr"]
    assert choose_names(RUNS["only_evaluations"]) == ["loss", "rmse"]
    assert choose_names([make("own", loss__test=(1,), hits__test=(1,))]) == ["loss", "hits"]
    assert choose_names(RUNS["different"]) == ["loss", "accuracy"]
    assert choose_names(RUNS["usual"], ["lr", "loss", "lr"]) == ["lr", "loss"]
    with pytest.raises(ConfigError, match="--numbers speed: no run has it; they have accuracy, loss, lr"):
        choose_names(RUNS["usual"], ["speed"])


@pytest.mark.parametrize("columns", [0, 1, 3])
def test_points_of_a_regression_are_drawn_below_or_alone(tmp_path: Path, columns: int) -> None:
    along = np.linspace(0, 1, 50)
    inputs = np.stack([along] * columns, axis=1) if columns else None
    points = Points(inputs, 3 * along + 2, 2.9 * along + 2.1)
    draw_curves(RUNS["only_evaluations"], ["loss"], tmp_path / "below.png", points)
    for each in (points, Points(inputs, points.truths)) if columns else ():
        draw_points(each, tmp_path / "alone.png")
        assert (tmp_path / "alone.png").stat().st_size > 5000
