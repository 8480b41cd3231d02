"""What a network learns: the loss of a batch, and what an evaluation counts."""

from typing import Any, Protocol

import torch
from torch import Tensor

from dist_train.nest import Nest


class Evaluation(Protocol):
    """The result of one pass over a split; `str` of it is a line for the log."""

    @property
    def split(self) -> str:
        """The name of the split."""

    @property
    def accuracy(self) -> float:
        """By which the best checkpoint is chosen."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of an eval line in `metrics.jsonl`."""


class EvaluationCounts(Protocol):
    """Sums of an evaluation, as tensors on the device that ranks can add up."""

    def add(self, number: int, output: Nest, targets: Nest, num_samples: int) -> None:
        """Count a batch; `number` of the batch in the split."""

    def tensors(self) -> list[Tensor]:
        """The tensors whose sums over all ranks are those of the whole split."""

    def result(self, split: str) -> Evaluation:
        """Return the evaluation, once the tensors hold the sums over all ranks."""


class Task(Protocol):
    """What a network learns."""

    def loss_sum(self, output: Nest, targets: Nest, num_samples: int) -> Tensor:
        """Return the sum of the losses of a batch, float [].

        Args:
            output: of the network.
            targets: of the batch.
            num_samples: in the batch; 0 where synchronised batch normalisation takes an empty one.
        """

    def open_evaluation(self, num_batches: int, device: torch.device) -> EvaluationCounts:
        """Return sums of zero for one pass over a split; every rank adds its own batches."""
