"""Sums of an evaluation that ranks add up: the same bits at any number of ranks.

Integers are added up in any order. What is rounded has a slot for each batch of the split, filled by the rank that has
the batch, so that all ranks add the slots in the same order.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dist_train.distributed.world import World
from dist_train.nest import Nest


@dataclass(frozen=True)
class Format:
    """What sums need to know before the first batch; the same on every rank."""

    num_batches: int
    """Batches of the split, over all ranks."""
    device: torch.device
    classes: tuple[str, ...] = ()
    """Names of the network's classes; numbers where the data name none."""
    numbers: int = 1
    """Numbers in the output for a sample; 1 where samples may differ in it."""


class Sums:
    """Sums of one metric over the batches of this rank, then over those of all ranks."""

    def add(self, number: int, output: Nest, targets: Nest, num_samples: int) -> None:
        """Count a batch; `number` of the batch in the split.

        Raises:
            DataError: output and target do not fit the metric.
            OwnCodeError: the user's code raises.
        """
        raise NotImplementedError

    def tensors(self) -> list[Tensor]:
        """Tensors of the same shapes on every rank, whose sums over all ranks are those of the whole split."""
        return []

    def reduce(self, world: World) -> None:
        """Add up over all ranks; every rank calls this."""
        for tensor in self.tensors():
            world.sum_(tensor)

    def result(self) -> dict[str, Any]:
        """Return the fields of an eval line, once the sums are those of the whole split."""
        raise NotImplementedError


def ratio(part: float, whole: float) -> float:
    """Return the quotient; not a number where the whole is 0."""
    return part / whole if whole else float("nan")
