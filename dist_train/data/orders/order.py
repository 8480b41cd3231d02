"""The orders of samples in an epoch that `data.shuffle` and `data.sampling` select."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dist_train import seeds
from dist_train.data.orders.permutation import permute
from dist_train.data.own.seeding import isolate_generators, seed_isolated_generators
from dist_train.data.samples import Samples
from dist_train.errors import ConfigError, DataError
from dist_train.own_code.load import check_call, load, shown_as_own
from dist_train.settings.schema import Data


class Order(Protocol):
    """Maps positions of an epoch to samples: the same at any number of ranks and after any resume."""

    def take(self, positions: Tensor, epoch: int) -> Tensor:
        """Return the samples, int64 [B] on the CPU, at these positions, int64 [B]."""


class Shuffled:
    """Each sample once, in a random order of its own in each epoch."""

    def __init__(self, length: int, seed: int) -> None:
        self._length = length
        self._seed = seed

    def take(self, positions: Tensor, epoch: int) -> Tensor:
        return permute(positions, self._length, self._seed, epoch)


class Unshuffled:
    """Each sample once, in the order of the data set."""

    def take(self, positions: Tensor, epoch: int) -> Tensor:  # noqa: ARG002
        return positions


class Balanced:
    """Draws with replacement: each class is equally likely, and each sample of a class."""

    def __init__(self, labels: Tensor, seed: int) -> None:
        """`labels`: int64 [N], of all samples."""
        self._seed = seed
        self._by_class = labels.argsort(stable=True)
        self._counts = torch.unique(labels, return_counts=True)[1]  # labels may be any whole numbers
        self._starts = self._counts.cumsum(0) - self._counts

    def take(self, positions: Tensor, epoch: int) -> Tensor:
        which, within = seeds.random_bits(self._seed, ("class", "sample of class"), epoch, positions)
        which %= len(self._counts)
        return self._by_class[self._starts[which] + within % self._counts[which]]


class Weighted:
    """Draws with replacement, each sample as likely as its weight says."""

    def __init__(self, weights: Tensor, seed: int) -> None:
        """`weights`: float64 [N], none below 0, and one above it."""
        self._seed = seed
        self._sums = torch.from_numpy(np.cumsum(weights.numpy()))  # one after another, on any number of threads
        self._last = int(weights.nonzero()[-1])

    def take(self, positions: Tensor, epoch: int) -> Tensor:
        high, low = seeds.random_bits(self._seed, ("weight", "weight, finer"), epoch, positions)
        draws = (high * 2.0**31 + low).to(torch.float64) / 2.0**62 * self._sums[-1]
        return torch.searchsorted(self._sums, draws, right=True).clamp_(max=self._last)


class OwnOrder:
    """The order that the user's function returns for each epoch."""

    def __init__(self, function: Callable[[int, int, int], Any], name: str, length: int, seed: int) -> None:
        self._function = function
        self._name = name
        self._length = length
        self._seed = seed
        self._order_of = lru_cache(maxsize=1)(self._call)

    def take(self, positions: Tensor, epoch: int) -> Tensor:
        """Raises DataError if the order is none, and OwnCodeError."""
        return self._order_of(epoch)[positions]

    def _call(self, epoch: int) -> Tensor:
        """Return the order of an epoch, int64 [length]; what the function draws is the same on all ranks."""
        with isolate_generators(), shown_as_own(f"data.sampling {self._name}: the order of epoch {epoch}"):
            seed_isolated_generators(seeds.derive(self._seed, "own order", epoch))
            found = self._function(self._seed, epoch, self._length)
        try:
            order = torch.as_tensor(found)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"data.sampling {self._name}: returns a {type(found).__name__}, no indices") from error
        if order.dim() != 1 or order.is_floating_point() or order.is_complex() or order.dtype == torch.bool:
            raise DataError(f"data.sampling {self._name}: must return whole numbers in one dimension")
        if len(order) != self._length:
            raise DataError(
                f"data.sampling {self._name}: returns {len(order):,} indices for epoch {epoch}, and an epoch has "
                f"{self._length:,}; repeat some, or leave some out"
            )
        low, high = int(order.min()), int(order.max())
        if low < 0 or high >= self._length:
            raise DataError(
                f"data.sampling {self._name}: returns indices from {low} to {high} for epoch {epoch}; they must be "
                f"from 0 to {self._length - 1}"
            )
        return order.to(torch.int64)


def build_order(config: Data, samples: Samples, seed: int) -> Order:
    """Return the order that the settings choose.

    Raises:
        ConfigError: `data.shuffle` and `data.sampling` contradict each other.
        DataError: the data set lacks what the order needs.
    """
    if config.sampling == "uniform":
        return Shuffled(len(samples), seed) if config.shuffle else Unshuffled()
    if not config.shuffle:
        raise ConfigError(f"data.shuffle is false, but data.sampling={config.sampling} draws its own order; remove one")
    if config.sampling == "balanced":
        return Balanced(_find_labels(samples), seed)
    if config.sampling == "weighted":
        return Weighted(_find_weights(samples), seed)
    function = load(config.sampling, "data.sampling")
    if not callable(function):
        raise ConfigError(f"data.sampling {config.sampling}: is of the type {type(function).__name__}, and no function")
    check_call(function, f"data.sampling {config.sampling}", "seed", "epoch", "length")
    return OwnOrder(function, config.sampling, len(samples), seed)


def _find_labels(samples: Samples) -> Tensor:
    labels = samples.source.labels
    if labels is None:
        raise DataError(
            "data.sampling=balanced: the data set does not say which class each sample is of; give it an attribute "
            "`targets`, one whole number a sample"
        )
    return labels if samples.chosen is None else labels[samples.chosen]


def _find_weights(samples: Samples) -> Tensor:
    found = samples.source.weights
    if found is None:
        raise DataError(
            "data.sampling=weighted: the data set has no attribute `weights` that is a list, an array or a tensor of "
            "one number a sample"
        )
    weights = found if samples.chosen is None else found[samples.chosen]
    if (
        not bool(weights.isfinite().all())
        or bool((weights < 0).any())
        or not math.isfinite(total := weights.sum().item())
    ):
        raise DataError("data.sampling=weighted: a weight is negative, infinite or not a number")
    if total == 0:
        raise DataError("data.sampling=weighted: all weights are 0")
    return weights
