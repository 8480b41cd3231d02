"""Points of a line with noise, as in the first lesson on regression."""

import torch
from torch import Tensor

from dist_train import seeds
from dist_train.data.source import RowSplits
from dist_train.settings.schema import LineData


def find(config: LineData, seed: int) -> RowSplits:
    """Make the points of both splits; those of the test split are drawn apart from the others."""
    lesson, other = torch.Generator().manual_seed(seed), seeds.generator(seed, "test points")
    train = torch.linspace(-1, 1, config.num_train)
    test = 2 * torch.rand(config.num_test, generator=other) - 1
    splits = {
        "train": _make_points(config, train, torch.rand(config.num_train, generator=lesson)),
        "test": _make_points(config, test, torch.rand(config.num_test, generator=other)),
    }
    return RowSplits(("x",), "y", splits)  # type: ignore[arg-type]


def _make_points(config: LineData, x: Tensor, noise: Tensor) -> Tensor:
    """Return x and y: float64 [N, 2], computed in the lesson's floats of 32 bits."""
    y = config.slope * x + config.intercept + config.noise * noise
    return torch.stack([x, y], dim=1).to(torch.float64)
