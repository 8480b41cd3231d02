"""What a network gets is shown as it was before it was normalised."""

from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch

from dist_train.data.augment import open_preparation
from dist_train.monitoring.input_pictures import to_pictures
from dist_train.settings.schema import Augment, Normalize

Pair = namedtuple("Pair", "number picture")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_normalisation_is_undone(channels: int, memory_format: torch.memory_format) -> None:
    pixels = torch.arange(2 * channels * 8 * 16, dtype=torch.int64).remainder(256).to(torch.uint8)
    pixels = pixels.view(2, channels, 8, 16)
    normalize = Normalize(mean=(0.5, 0.4, 0.3)[:channels], std=(0.2, 0.25, 0.3)[:channels])
    prepare = open_preparation(normalize, Augment(), 0, torch.device("cpu"), memory_format).prepare
    found = to_pictures(prepare(pixels), normalize)
    assert found is not None
    for picture, before in zip(found, pixels, strict=True):
        assert picture.shape == ((8, 16) if channels == 1 else (8, 16, 3))
        assert np.array_equal(picture.reshape(8, 16, channels), before.permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0.0, 1.0], [0, 255]),
        ([0.25, 0.5], [64, 128]),
        ([-3.0, 1.0], [0, 255]),
        ([7.0, 7.0], [0, 0]),
        ([float("nan"), 2.0], [0, 255]),
    ],
)
def test_floats_without_a_known_normalisation_are_shown_from_lowest_to_highest(
    values: list[float], shown: list[int]
) -> None:
    (found,) = to_pictures(torch.tensor(values).view(1, 1, 1, 2), None) or []
    assert found.tolist() == [shown]


@pytest.mark.parametrize(
    ("inputs", "count"),
    [
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), 2),
        (Pair(torch.zeros(2), {"deep": [torch.zeros(2, 3, 4, 4)]}), 2),
        (torch.zeros(2, 2, 4, 4), None),
        (torch.zeros(2, 8), None),
        (torch.zeros(2, 1, 4, 4, dtype=torch.int64), None),
        (torch.zeros(0, 1, 4, 4), None),
        ("text", None),
    ],
)
def test_pictures_are_found_in_a_nest(inputs: Any, count: int | None) -> None:
    found = to_pictures(inputs, None)
    assert (found and len(found)) == count
