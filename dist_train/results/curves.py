"""Read the numbers of runs over their steps, from `metrics.jsonl`, without torch."""

import logging
import math
import re
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dist_train.errors import ConfigError
from dist_train.eval_line import list_numbers
from dist_train.monitoring.metrics import stream_lines
from dist_train.run_dir import RunDir
from dist_train.system.escape import escape
from dist_train.system.read_file import explain, open_regular

if TYPE_CHECKING:
    from numpy.typing import NDArray

TRAINING = "training"
"""The source of numbers of training steps; the source of those of evaluations is the name of the split."""
_OF_TRAINING = ("loss", "lr", "samples_per_second")
_START = re.compile(rb"\S+ \S+ INFO rank 0(?:\(\d+\))? starts at step (\d{1,18}) on ")
"""A line of `rank_0.log`, as `monitoring.console` writes it."""
_MOST = 1000
"""The most points with which a curve is drawn without thinning."""
_log = logging.getLogger(__name__)


@dataclass
class Curve:
    """One number over the steps, oldest first; NaN where it was not finite."""

    steps: "array[int]" = field(default_factory=lambda: array("q"))
    values: "array[float]" = field(default_factory=lambda: array("d"))

    def add(self, step: int, value: float | None) -> None:
        self.steps.append(step)
        self.values.append(value if value is not None and math.isfinite(value) else math.nan)

    def finite(self) -> Iterator[float]:
        return filter(math.isfinite, self.values)

    def thin(self) -> "Thinned":
        """Return a curve that can be drawn: of many points the mean of each piece, with its lowest and highest."""
        import numpy as np

        steps, values = np.frombuffer(self.steps, np.int64), np.frombuffer(self.values)
        if len(steps) <= _MOST:
            return Thinned(steps, values)
        starts = np.linspace(0, len(steps), _MOST // 2, endpoint=False).astype(np.int64)
        counts = np.diff(starts, append=len(steps))
        means = np.add.reduceat(values, starts) / counts  # NaN where one of them is
        low, high = np.fmin.reduceat(values, starts), np.fmax.reduceat(values, starts)
        return Thinned(np.add.reduceat(steps, starts) // counts, means, low, high)


@dataclass(frozen=True)
class Thinned:
    """A curve as it is drawn: arrays of one length."""

    steps: "NDArray[Any]"
    values: "NDArray[Any]"
    low: "NDArray[Any] | None" = None
    high: "NDArray[Any] | None" = None
    """Lowest and highest of the values around each point; None where each point is one value."""


@dataclass(frozen=True)
class RunCurves:
    """The curves of one run."""

    label: str
    curves: dict[tuple[str, str], Curve]
    """Curves by name of the number and source: TRAINING or the name of a split."""
    restarts: tuple[int, ...]
    """Steps at which the run was continued."""

    def names(self) -> set[str]:
        return {name for name, _ in self.curves}


def read_all_curves(runs: Iterable[tuple[str, Path]]) -> list[RunCurves]:
    """Read the curves of runs, given with their labels; warn of those that have none yet.

    Raises:
        ConfigError: a directory is no run, or none has curves.
    """
    found = [read_curves(path, label) for label, path in runs]
    empty = [each for each in found if not each.curves]
    if len(empty) == len(found):
        names = ", ".join(escape(each.label) for each in empty[:5])
        raise ConfigError(f"{names}: there is nothing to draw yet, no numbers in metrics.jsonl")
    for each in empty:
        _log.warning("%s: has no numbers yet, and is left out", escape(each.label))
    return [each for each in found if each.curves]


def read_curves(path: Path, label: str) -> RunCurves:
    """Read the curves of one run; raises ConfigError if it is none or can't be read."""
    run = RunDir(path)
    curves: dict[tuple[str, str], Curve] = {}
    try:
        for line in stream_lines(run.metrics):
            is_train = line["kind"] == "train"
            source = TRAINING if is_train else line["split"]
            numbers = {name: line[name] for name in _OF_TRAINING} if is_train else list_numbers(line)
            for name, value in numbers.items():
                curves.setdefault((name, source), Curve()).add(line["step"], value)
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(
            f"{escape(path)}: is not a run: it has no metrics.jsonl; give a directory below runs/"
        ) from None
    except OSError as error:
        raise ConfigError(f"{escape(run.metrics)}: can't be read: {explain(error)}") from error
    newest = max((curve.steps[-1] for curve in curves.values()), default=0)
    return RunCurves(label, curves, tuple(step for step in _read_starts(run)[1:] if 0 < step < newest))


def _read_starts(run: RunDir) -> list[int]:
    """Return the step of each start of the run, oldest first; they are in the log of rank 0."""
    with suppress(OSError), open_regular(run.logs / "rank_0.log") as file:
        return [int(found[1]) for line in file if (found := _START.match(line))]
    return []
