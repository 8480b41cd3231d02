"""Classification: cross-entropy of logits, and accuracy in total and of each class."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dist_train.settings.schema import Loss


class Classification:
    """Each sample belongs to one class, and the network returns a logit for each class."""

    def __init__(self, loss: Loss, classes: tuple[str, ...]) -> None:
        self._label_smoothing = float(loss.args.get("label_smoothing", 0.0))
        self._classes = classes

    def loss_sum(self, output: Tensor, targets: Tensor, num_samples: int) -> Tensor:  # noqa: ARG002
        """Return the sum of the cross-entropies of a batch, float32 [].

        Args:
            output: logits, [B, classes].
            targets: labels, int64 [B].
        """
        return functional.cross_entropy(output, targets, reduction="sum", label_smoothing=self._label_smoothing)

    def open_evaluation(self, num_batches: int, device: torch.device) -> "EvaluationCounts":
        """Return counts of zero for one pass over a split."""
        return EvaluationCounts(self._classes, num_batches, device)


@dataclass(frozen=True)
class Evaluation:
    """Loss and accuracy of one pass over a split."""

    split: str
    loss: float
    """Mean cross-entropy of a sample, without label smoothing."""
    correct: tuple[int, ...]
    """Samples of each class for which it had the highest logit."""
    count: tuple[int, ...]
    """Samples of each class."""
    classes: tuple[str, ...]

    @property
    def accuracy(self) -> float:
        return sum(self.correct) / sum(self.count)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of an eval line in `metrics.jsonl`; `per_class` leaves out classes without a sample."""
        rows = zip(self.classes, self.correct, self.count, strict=True)
        return {
            "split": self.split,
            "loss": self.loss,
            "accuracy": self.accuracy,
            "correct": sum(self.correct),
            "count": sum(self.count),
            "per_class": {
                name: {"accuracy": correct / count, "correct": correct, "count": count}
                for name, correct, count in rows
                if count
            },
        }

    def __str__(self) -> str:
        correct, count = sum(self.correct), sum(self.count)
        return f"{self.split} accuracy {100 * self.accuracy:.2f} % ({correct} of {count}), loss {self.loss:.4f}"


class EvaluationCounts:
    """Integer counts and losses of an evaluation, as tensors on the device that ranks can add up."""

    def __init__(self, classes: tuple[str, ...], num_batches: int, device: torch.device) -> None:
        self._classes = classes
        self._correct, self._count = (torch.zeros(len(classes), dtype=torch.int64, device=device) for _ in range(2))
        # One element a batch, so that the losses are added in the same order at any number of ranks.
        self._losses = torch.zeros(num_batches, dtype=torch.float64, device=device)

    def add(self, number: int, logits: Tensor, labels: Tensor, num_samples: int) -> None:  # noqa: ARG002
        """Count a batch: logits [B, classes] in at least fp32, labels int64 [B]; `number` of the batch in the split."""
        self._losses[number] = functional.cross_entropy(logits, labels, reduction="sum")
        correct = logits.argmax(dim=1) == labels
        # Indexing by a mask, and `bincount`, would wait for a GPU to say how many there are.
        self._correct.index_add_(0, labels, correct.to(torch.int64))
        self._count.index_add_(0, labels, torch.ones_like(labels))

    def tensors(self) -> list[Tensor]:
        """The tensors whose sums over all ranks are the counts of the whole split."""
        return [self._correct, self._count, self._losses]

    def result(self, split: str) -> Evaluation:
        """Return the evaluation, once the tensors hold the sums over all ranks."""
        loss = (self._losses.sum() / self._count.sum()).item()
        return Evaluation(split, loss, tuple(self._correct.tolist()), tuple(self._count.tolist()), self._classes)
