"""Shapes, types, and mean and standard deviation of many tensors, in one pass."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dist_train.data.statistics import Histogram, compute_moments, count_values

MOST_CHANNELS = 16
"""Up to so many channels or features have numbers of their own; of more, all values count together."""
MOST_SHAPES = 5
MANY = 4


@dataclass
class Values:
    """All values of one channel: how many, their mean, and the sum of squared distances from it, in float64."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    least: float = math.inf
    most: float = -math.inf
    not_finite: int = 0
    """Infinite values and those that are no number; they count nowhere else."""

    def add(self, values: Tensor) -> None:
        """Add values of any real type, [N]; pairs of parts are merged as Chan, Golub and LeVeque do."""
        values = values.to(torch.float64)
        finite = values[torch.isfinite(values)]
        self.not_finite += len(values) - len(finite)
        if not len(finite):
            return
        mean, count = float(finite.mean()), len(finite)
        distance, total = mean - self.mean, self.count + count
        self.squares += float(((finite - mean) ** 2).sum()) + distance**2 * self.count * count / total
        self.mean += distance * count / total
        self.count = total
        self.least, self.most = min(self.least, float(finite.min())), max(self.most, float(finite.max()))

    def to_dict(self) -> dict[str, Any]:
        """Return mean, std, least and most; null where there is no value."""
        if not self.count:
            return {"mean": None, "std": None, "min": None, "max": None, "not_finite": self.not_finite}
        std = math.sqrt(self.squares / self.count)
        return {"mean": self.mean, "std": std, "min": self.least, "max": self.most, "not_finite": self.not_finite}


@dataclass
class TensorSummary:
    """Types, shapes and statistics of one tensor of each sample."""

    types: Counter[str] = field(default_factory=Counter)
    shapes: Counter[tuple[int, ...]] = field(default_factory=Counter)
    """Shapes of one sample."""
    _bytes: Histogram | None = None
    """Counts of the 256 values in each channel, if the tensors are pictures of bytes: exact in any order."""
    _values: list[Values] = field(default_factory=list)

    def add(self, batch: Tensor) -> None:
        """Add samples of one shape, [N, ...]."""
        self.types[str(batch.dtype).removeprefix("torch.")] += len(batch)
        self.shapes[tuple(batch.shape[1:])] += len(batch)
        if batch.dtype == torch.uint8 and batch.dim() == 4:
            counts = count_values(batch)
            self._bytes = counts if self._bytes is None else _add_channels(self._bytes, counts)
        elif not batch.is_complex():
            self._add_values(batch)

    def _add_values(self, batch: Tensor) -> None:
        channels = batch.shape[1] if batch.dim() > 1 and batch.shape[1] <= MOST_CHANNELS else 1
        values = batch.transpose(0, 1).reshape(channels, -1) if channels > 1 else batch.reshape(1, -1)
        self._values += [Values() for _ in range(channels - len(self._values))]
        for known, channel in zip(self._values, values, strict=False):
            known.add(channel)

    def to_dict(self) -> dict[str, Any]:
        """Return plain types; mean and std have a number for each channel, of pictures of bytes scaled to 0..1."""
        found: dict[str, Any] = {
            "dtype": list(self.types),
            "shapes": [{"shape": list(shape), "count": count} for shape, count in self.shapes.most_common()],
        }
        if self._bytes is not None:
            moments = [compute_moments(channel) for channel in self._bytes.tolist()]
            return {**found, "mean": [mean for mean, _ in moments], "std": [std for _, std in moments]}
        columns = [values.to_dict() for values in self._values]
        return {**found, **{key: [column[key] for column in columns] for key in (columns[0] if columns else ())}}

    def format_type(self) -> str:
        """Return types and shapes, such as `uint8 [3, 32, 32]`."""
        listed = [
            f"{list(shape)}{f' ({count:,})' if len(self.shapes) > 1 else ''}"
            for shape, count in self.shapes.most_common(MOST_SHAPES)
        ]
        more = len(self.shapes) - MOST_SHAPES
        return f"{'/'.join(self.types)} {', '.join(listed)}{f' and {more} other shapes' if more > 0 else ''}"

    def format_moments(self) -> str:
        """Return mean and std of each channel, and of values that are no bytes the least and the most.

        For many channels each of these is a line.
        """
        found = self.to_dict()
        keys = [key for key in ("mean", "std", "min", "max") if key in found]
        between = "  " if len(self._values) < MANY else "\n"
        text = between.join(f"{key} {' '.join(map(_format_number, found[key]))}" for key in keys)
        wrong = sum(found.get("not_finite", ()))
        return f"{text}  ({wrong:,} values are not finite)" if wrong else text


def _add_channels(first: Histogram, second: Histogram) -> Histogram:
    """Add two histograms of bytes, [C, 256]. Their numbers of channels C may differ."""
    both = np.zeros((max(len(first), len(second)), 256), dtype=np.int64)
    both[: len(first)] += first
    both[: len(second)] += second
    return both


def _format_number(number: float | None) -> str:
    if number is None:
        return "-"
    return f"{number:.4f}" if 1e-3 <= abs(number) < 1e3 or not number else f"{number:.4g}"
