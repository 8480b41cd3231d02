"""Metrics of classification, of logits and labels; and of multilabel, where each sample may be of several classes."""

from typing import Any

import torch
from torch import Tensor

from dist_train.errors import DataError
from dist_train.tasks.output import align, describe_both, find_label_misfit, find_label_out_of_range, to_labels
from dist_train.tasks.sums import Format, Sums, ratio


class _LabelSums(Sums):
    """Integer counts of correct labels: logits are [B, C, ...], and labels [B, ...]; each label counts."""

    def __init__(self, name: str, ignored: int | None) -> None:
        self._name, self._ignored = name, ignored

    def add(self, number: int, output: Any, targets: Any, num_samples: int) -> None:  # noqa: ARG002
        if misfit := find_label_misfit(output, targets):
            raise DataError(f"metric {self._name}: {describe_both(output, targets)}; {misfit}")
        labels = to_labels(targets)
        if output.dim() > 2:
            output, labels = output.movedim(1, -1).flatten(0, -2), labels.flatten()
        if self._ignored is not None:
            output, labels = output[labels != self._ignored], labels[labels != self._ignored]
        try:
            self._count_labels(output, labels)
        except (IndexError, RuntimeError) as error:
            misfit = find_label_out_of_range(output, labels)
            raise DataError(f"metric {self._name}: {misfit or error}") from error

    def _count_labels(self, output: Tensor, labels: Tensor) -> None:
        """Count logits, [N, C], and labels, int64 [N]."""
        raise NotImplementedError


def _zeros(count: int, device: torch.device) -> Tensor:
    return torch.zeros(count, dtype=torch.int64, device=device)


class Accuracy(_LabelSums):
    """How many labels have the highest logit, in total and of each class."""

    def __init__(self, form: Format, ignored: int | None = None, has_total: bool = True) -> None:
        super().__init__("accuracy", ignored)
        self._classes, self._has_total = form.classes, has_total
        self._correct, self._count = (_zeros(len(form.classes), form.device) for _ in range(2))

    def _count_labels(self, output: Tensor, labels: Tensor) -> None:
        correct = output.argmax(dim=1) == labels
        # Indexing by a mask, and `bincount`, would wait for a GPU to say how many there are.
        self._correct.index_add_(0, labels, correct.to(torch.int64))
        self._count.index_add_(0, labels, torch.ones_like(labels))

    def tensors(self) -> list[Tensor]:
        return [self._correct, self._count]

    def result(self) -> dict[str, Any]:
        """`per_class` leaves out classes without a label."""
        correct, count = self._correct.tolist(), self._count.tolist()
        total = {
            "accuracy": ratio(sum(correct), sum(count)),
            "correct": sum(correct),
            "count": sum(count),
        }
        rows = {
            name: {"accuracy": right / there, "correct": right, "count": there}
            for name, right, there in zip(self._classes, correct, count, strict=True)
            if there
        }
        return {**(total if self._has_total else {}), "per_class": rows}


class TopK(_LabelSums):
    """The share of labels that are among the highest logits; of equal ones the first counts as the higher."""

    def __init__(self, form: Format, most: int, ignored: int | None = None) -> None:
        super().__init__(f"top{most}", ignored)
        self._most, self._num_classes = most, len(form.classes)
        self._sums = _zeros(2, form.device)

    def _count_labels(self, output: Tensor, labels: Tensor) -> None:
        if output.shape[1] < self._most:
            raise DataError(f"metric {self._name}: the output has {output.shape[1]} classes only; use a smaller number")
        own = output.gather(1, labels.unsqueeze(1))
        later = torch.arange(output.shape[1], device=output.device) >= labels.unsqueeze(1)
        # What is not lower counts as higher, so that a logit that is not a number is never a hit.
        higher = output.shape[1] - ((output < own) | ((output == own) & later)).sum(dim=1)
        self._sums[0] += (higher < self._most).sum()
        self._sums[1] += len(labels)

    def tensors(self) -> list[Tensor]:
        return [self._sums]

    def result(self) -> dict[str, Any]:
        hits, count = self._sums.tolist()
        return {self._name: ratio(hits, count)}


class Confusion(_LabelSums):
    """The confusion matrix: rows are the true classes, columns those with the highest logit."""

    def __init__(self, form: Format, name: str, ignored: int | None = None) -> None:
        super().__init__(name, ignored)
        self._num_classes = len(form.classes)
        self._counts = _zeros(self._num_classes**2, form.device)

    def _count_labels(self, output: Tensor, labels: Tensor) -> None:
        if labels.numel() and self._counts.device.type == "cpu" and int(labels.max()) >= self._num_classes:
            raise IndexError("a label is out of range")  # it would count for another class
        self._counts.index_add_(0, labels * self._num_classes + output.argmax(dim=1), torch.ones_like(labels))

    def tensors(self) -> list[Tensor]:
        return [self._counts]

    def result(self) -> dict[str, Any]:
        table = self._counts.view(self._num_classes, self._num_classes)
        if self._name == "confusion_matrix":
            return {self._name: table.tolist()}
        right, true, predicted = table.diagonal(), table.sum(dim=1), table.sum(dim=0)
        return {self._name: _mean_f1(right, true, predicted)}


def _mean_f1(right: Tensor, true: Tensor, predicted: Tensor) -> float:
    """Return the mean over classes of the harmonic mean of precision and recall; classes that never occur are left out.

    Args:
        right: int64 [C], how often each class was predicted where it was true.
        true: int64 [C], how often it was true.
        predicted: int64 [C], how often it was predicted.
    """
    counts = zip(right.tolist(), (true + predicted).tolist(), strict=True)
    scores = [2 * hits / total for hits, total in counts if total]
    return ratio(sum(scores), len(scores))


class MultilabelSums(Sums):
    """Logits and labels of 0 or 1, [B, C]: a class is predicted where its logit is above 0."""

    def __init__(self, form: Format, name: str) -> None:
        self._name, self._classes = name, form.classes
        self._right, self._true, self._predicted = (_zeros(len(form.classes), form.device) for _ in range(3))
        self._samples = _zeros(3, form.device)  # all, without a fault, labels without a fault

    def add(self, number: int, output: Any, targets: Any, num_samples: int) -> None:  # noqa: ARG002
        aligned = align(output, targets)
        if aligned is None or output.dim() != 2 or output.shape[1] != len(self._classes):
            raise DataError(
                f"metric {self._name}: {describe_both(output, targets)}; it needs logits and labels of 0 or 1, both "
                f"[B, {len(self._classes) or 'classes'}]"
            )
        true, predicted = aligned > 0.5, output > 0
        self._right += (true & predicted).sum(dim=0)
        self._true += true.sum(dim=0)
        self._predicted += predicted.sum(dim=0)
        agree = true == predicted
        self._samples[0] += num_samples
        self._samples[1] += agree.all(dim=1).sum()
        self._samples[2] += agree.sum()

    def tensors(self) -> list[Tensor]:
        return [self._right, self._true, self._predicted, self._samples]

    def result(self) -> dict[str, Any]:
        samples, exact, agreeing = self._samples.tolist()
        right, true, predicted = (tensor.tolist() for tensor in (self._right, self._true, self._predicted))
        if self._name == "accuracy":
            labels = samples * len(self._classes)
            return {"accuracy": ratio(agreeing, labels)}
        if self._name == "exact_match":
            return {"exact_match": ratio(exact, samples)}
        if self._name == "macro_f1":
            return {"macro_f1": _mean_f1(self._right, self._true, self._predicted)}
        if self._name == "micro_f1":
            return {"micro_f1": ratio(2 * sum(right), sum(true) + sum(predicted))}
        rows = zip(self._classes, right, true, predicted, strict=True)
        return {
            "per_class": {
                name: {"f1": ratio(2 * hits, count + said), "correct": hits, "count": count, "said": said}
                for name, hits, count, said in rows
            }
        }
