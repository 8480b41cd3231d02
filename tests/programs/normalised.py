"""Batch normalisation before the network of a run: one with buffers, that takes no longer than the network."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from torch import nn

from dist_train.models import build_model
from dist_train.training import setup


@contextmanager
def put_batch_normalisation_first() -> Iterator[None]:
    """Inside, runs of this process train such networks."""
    with patch.object(setup, "build_model", _build):
        yield


def _build(config: Any, shape: tuple[int, int, int], *arguments: Any) -> nn.Module:
    network = build_model(config, shape, *arguments)  # it seeds torch
    return nn.Sequential(nn.BatchNorm2d(shape[0]), nn.Conv2d(shape[0], shape[0], 1), nn.BatchNorm2d(shape[0]), network)
