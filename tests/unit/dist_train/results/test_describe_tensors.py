"""Mean and standard deviation in one pass, for tensors in parts of any size."""

import numpy as np
import pytest
import torch
from torch import Tensor

from dist_train.results.describe_tensors import MOST_CHANNELS, TensorSummary


def summarize(tensor: Tensor, sizes: list[int]) -> TensorSummary:
    summary = TensorSummary()
    for part in torch.split(tensor, sizes):
        summary.add(part)
    return summary


@pytest.mark.parametrize("sizes", [[50], [1] * 50, [7, 0, 43]], ids=str)
@pytest.mark.parametrize("offset", [0.0, 1e8])
@pytest.mark.parametrize("shape", [(50,), (50, 3), (50, 3, 4), (50, 2, 4, 5), (50, MOST_CHANNELS + 1)], ids=str)
def test_numbers_are_those_of_numpy(shape: tuple[int, ...], offset: float, sizes: list[int]) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + offset
    found = summarize(values, sizes).to_dict()
    channels = shape[1] if len(shape) > 1 and shape[1] <= MOST_CHANNELS else 1
    rows = values.numpy().reshape(50, channels, -1).transpose(1, 0, 2).reshape(channels, -1)
    for key, expected in (
        ("mean", rows.mean(axis=1)), ("std", rows.std(axis=1)), ("min", rows.min(axis=1)), ("max", rows.max(axis=1))
    ):  # fmt: skip
        np.testing.assert_allclose(found[key], expected, rtol=1e-12 if offset == 0 else 1e-8, atol=1e-12)


@pytest.mark.parametrize("sizes", [[40], [1] * 40, [39, 1]], ids=str)
def test_bytes_are_exact_in_any_parts(sizes: list[int]) -> None:
    pixels = torch.randint(256, (40, 3, 5, 4), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    found = summarize(pixels, sizes).to_dict()
    assert found == {**summarize(pixels, [40]).to_dict()}
    scaled = pixels.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(found["mean"], scaled.mean(axis=(0, 2, 3)), rtol=1e-14)
    np.testing.assert_allclose(found["std"], scaled.std(axis=(0, 2, 3)), rtol=1e-13)
    assert summarize(torch.full((2, 1, 2, 2), 9, dtype=torch.uint8), [1, 1]).to_dict()["std"] == [0.0]


def test_values_that_are_not_finite_are_counted_apart() -> None:
    summary = summarize(torch.tensor([[1.0, torch.nan], [3.0, torch.inf], [torch.nan, -torch.inf]]), [1, 2])
    found = summary.to_dict()
    assert (found["mean"], found["std"], found["not_finite"]) == ([2.0, None], [1.0, None], [1, 3])
    assert (
        summary.format_moments() == "mean 2.0000 -  std 1.0000 -  min 1.0000 -  max 3.0000 -  (4 values are not finite)"
    )


def test_shapes_and_types_are_counted() -> None:
    summary = TensorSummary()
    for size in (4, 4, 5):
        summary.add(torch.zeros(2, 3, size, 4, dtype=torch.uint8))
    summary.add(torch.zeros(1, 1, 2, 2, dtype=torch.uint8))
    summary.add(torch.zeros(1, dtype=torch.bool))
    assert summary.format_type() == "uint8/bool [3, 4, 4] (4), [3, 5, 4] (2), [1, 2, 2] (1), [] (1)"
    assert summarize(torch.zeros(2, 3, dtype=torch.complex64), [2]).format_moments() == ""
