"""Metrics of regression: rmse, mae and r2."""

import math
from typing import Any

import torch
from torch import Tensor

from dist_train.errors import DataError
from dist_train.tasks.output import align, describe_both
from dist_train.tasks.sums import Format, Sums, ratio


class RegressionSums(Sums):
    """Errors of outputs [B] or [B, D]; those with more dimensions are taken number by number.

    `r2` is the share of the target's variance that the output explains, as the mean over the D numbers of a sample.
    """

    def __init__(self, form: Format, name: str) -> None:
        self._name, self._numbers = name, form.numbers
        sums = torch.zeros(5, form.num_batches, form.numbers, dtype=torch.float64, device=form.device)
        self._squares, self._distances, self._spreads, *self._means = sums
        # The means of the target, and of its imaginary part if it has one.
        self._rows = torch.zeros(form.num_batches, dtype=torch.int64, device=form.device)

    def add(self, number: int, output: Any, targets: Any, num_samples: int) -> None:  # noqa: ARG002
        aligned = align(output, targets)
        if aligned is None:
            raise DataError(f"metric {self._name}: {describe_both(output, targets)}; it needs numbers of one shape")
        if output.numel() % self._numbers:
            raise DataError(
                f"metric {self._name}: the output is {list(output.shape)}, but {self._numbers} a sample before"
            )
        kind = torch.complex128 if output.is_complex() else torch.float64
        output, true = (tensor.detach().to(kind).reshape(-1, self._numbers) for tensor in (output, aligned))
        if not len(true):
            return
        error, mean = (output - true).abs(), true.mean(dim=0)
        self._squares[number], self._distances[number] = error.square().sum(dim=0), error.sum(dim=0)
        self._spreads[number] = (true - mean).abs().square().sum(dim=0)
        self._means[0][number] = mean.real
        if mean.is_complex():
            self._means[1][number] = mean.imag
        self._rows[number] = len(true)

    def tensors(self) -> list[Tensor]:
        return [self._squares, self._distances, self._spreads, *self._means, self._rows]

    def result(self) -> dict[str, Any]:
        rows = int(self._rows.sum())
        if self._name == "rmse":
            return {"rmse": math.sqrt(ratio(self._squares.sum().item(), rows * self._numbers))}
        if self._name == "mae":
            return {"mae": ratio(self._distances.sum().item(), rows * self._numbers)}
        counts = self._rows.unsqueeze(1)
        spread = self._spreads.sum(dim=0)
        for means in self._means:
            spread += (counts * (means - (counts * means).sum(dim=0) / rows).square()).sum(dim=0)
        return {"r2": (1 - self._squares.sum(dim=0) / spread).mean().item()}
