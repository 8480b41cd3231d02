"""The points of the lesson on a line."""

import torch

from dist_train.data.datasets.line import find
from dist_train.settings.schema import LineData


def test_the_training_points_are_those_of_the_lesson() -> None:
    torch.manual_seed(100)
    x = torch.linspace(-1, 1, 100).unsqueeze(1)
    y = 3 * x + 2 + 0.2 * torch.rand(x.size())
    points = find(LineData(name="line"), seed=100).splits
    assert torch.equal(points["train"].float(), torch.cat([x, y], dim=1))
    assert len(points["test"]) == 100
    above = points["test"][:, 1] - 3 * points["test"][:, 0] - 2
    assert -1e-6 < above.min() < 0.02 < 0.18 < above.max() < 0.2 + 1e-6


def test_points_are_a_function_of_the_settings() -> None:
    config = LineData(name="line", slope=-1.0, intercept=0.5, noise=0.0, num_train=3, num_test=7)
    points = find(config, seed=1).splits
    assert points["train"].tolist() == [[-1.0, 1.5], [0.0, 0.5], [1.0, -0.5]]
    assert torch.equal(points["test"], find(config, seed=1).splits["test"])
    assert not torch.equal(points["test"], find(config, seed=2).splits["test"])
