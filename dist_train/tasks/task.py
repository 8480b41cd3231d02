"""A loss and metrics, as a step and an evaluation call them."""

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dist_train.distributed.world import World
from dist_train.errors import ConfigError, DataError, OwnCodeError
from dist_train.eval_line import format_line, list_numbers, to_plain
from dist_train.nest import Nest, list_tensors
from dist_train.tasks.losses import LabelLoss, Loss
from dist_train.tasks.metrics import Metric
from dist_train.tasks.output import find_shares_misfit, select
from dist_train.tasks.sums import Format, Sums


class _Pass(Protocol):
    @property
    def targets(self) -> Nest: ...


class _Shard(Protocol):
    @property
    def number(self) -> int: ...

    @property
    def num_samples(self) -> int: ...

    @property
    def passes(self) -> Sequence[_Pass]: ...


class _Batch(Protocol):
    @property
    def count(self) -> int: ...

    @property
    def shards(self) -> Iterable[_Shard]: ...


@dataclass(frozen=True)
class Evaluation:
    """The result of one pass over a split; `str` of it is a line for the log."""

    split: str
    values: dict[str, Any]
    """The loss and what the metrics give."""
    confusion: Sequence[Sequence[int]] = ()
    """The confusion matrix to be drawn: rows are true classes, columns predictions; () where it was not counted."""
    classes: tuple[str, ...] = ()
    """Names of the classes in `confusion`."""

    def value(self, name: str) -> float:
        """Return a number by its name; raises ConfigError if the metric of this name gives none."""
        found = self.values.get(name)
        if not isinstance(found, bool | int | float):
            numbers = ", ".join(list_numbers(self.values))
            raise ConfigError(f"checkpoint.monitor is {name}, but that gave no number; the evaluation has {numbers}")
        return float(found)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of an eval line in `metrics.jsonl`."""
        return {"split": self.split, **{name: to_plain(value) for name, value in self.values.items()}}

    def __str__(self) -> str:
        return format_line(self.to_dict())


MOST_DRAWN = 100
"""The most classes for which a confusion matrix is drawn."""


class Task:
    """What a network learns."""

    def __init__(
        self,
        loss: Loss,
        metrics: Sequence[Metric],
        field: str | int | None,
        classes: tuple[str, ...],
        world: World,
        shards: int | None,
        confusion: Metric | None = None,
    ) -> None:
        """
        Args:
            field: the field of the network's output that loss and metrics get; None: the whole output.
            classes: names of the classes in the data.
            shards: shards of a global batch; None: one a rank.
            confusion: the confusion matrix of evaluations, where it is drawn.
        """
        self._loss, self._metrics, self._confusion = loss, metrics, confusion
        self._field, self._world, self._shards = field, world, shards or world.size
        self._classes, self._numbers = classes, 1
        self._scale: Tensor | float | None = None
        self.names = ("loss", *(metric.name for metric in metrics if metric.is_number))
        """Names of the numbers of an evaluation."""

    @property
    def own_loss(self) -> str | None:
        """The name of the loss if it is the user's code, else None."""
        return self._loss.name if self._loss.is_own else None

    def try_out(self, output: Nest, targets: Nest, num_samples: int) -> None:
        """Compute the loss and our metrics of an example, before the first step; evaluations get their shapes from it.

        Raises:
            UserError, OwnCodeError: as `loss_sum`.
        """
        self.loss_sum(output, targets, num_samples)
        selected = select(output, self._field)
        if isinstance(self._loss, LabelLoss) and (misfit := find_shares_misfit(targets)):
            raise DataError(f"loss {self._loss.name}: {misfit}")
        self._set_shapes(selected)
        ours = [metric for metric in self._metrics if not metric.is_own]
        self._open_sums(ours, 1, self._world.device).add(0, output, targets, num_samples)
        for metric in self._metrics:
            if metric.is_own:
                with suppress(OwnCodeError):  # the example is one sample, twice: an area under a curve needs two labels
                    self._open_sums([metric], 1, self._world.device).add(0, output, targets, num_samples)

    def _set_shapes(self, output: Nest) -> None:
        if not isinstance(output, Tensor):
            return
        if output.dim() > 1:
            more = range(len(self._classes), output.shape[1])
            if isinstance(self._loss, LabelLoss) and output.shape[1] < len(self._classes):
                raise DataError(
                    f"the output has {output.shape[1]} classes, and the data have {len(self._classes)}; the last layer "
                    "needs one output for each"
                )
            self._classes = (*self._classes, *map(str, more))
        self._numbers = math.prod(output.shape[1:]) if output.dim() == 2 else 1

    def begin_step(self, batch: _Batch) -> None:
        """Find what the sums of losses of a step are divided by; every rank calls this with its part of the batch."""
        if self._loss.divisor == "one":
            self._scale = float(batch.count)
        elif self._loss.divisor == "weights":
            weights = torch.zeros(self._shards, dtype=torch.float64, device=self._world.device)
            for shard in batch.shards:
                if shard.num_samples:
                    weights[shard.number] = sum(self._loss.weigh(each.targets) for each in shard.passes)
            self._world.sum_(weights)
            total = weights.sum()
            self._scale = torch.where(total > 0, batch.count / total, 0.0)

    def loss_sum(self, output: Nest, targets: Nest, num_samples: int) -> Tensor:
        """Return the sum of the losses of a batch, float []; that of all ranks, divided by their samples, is the loss.

        Args:
            output: the network's whole output.
            targets: what the loss compares it with.
            num_samples: samples in the batch.

        Raises:
            DataError: output and target do not fit together.
            ConfigError: the user's loss returns none, or one without a gradient.
            OwnCodeError: it raises.
        """
        total = self._loss.sum(select(output, self._field), targets, num_samples, output)
        if not total.requires_grad and any(tensor.requires_grad for tensor in list_tensors(output)):
            raise ConfigError(
                f"loss {self._loss.name}: what it returns has no gradient; compute it from the output with torch's "
                "functions, without .item(), .detach(), .numpy() or torch.no_grad()"
            )
        if self._scale is None:
            return total
        return total * (self._scale.to(total.dtype) if isinstance(self._scale, Tensor) else self._scale)

    def open_evaluation(self, num_batches: int, device: torch.device) -> "EvaluationSums":
        """Return sums of zero for one pass over a split; every rank adds its own batches."""
        confusion = self._confusion if len(self._classes) <= MOST_DRAWN else None
        return self._open_sums(self._metrics, num_batches, device, confusion)

    def _open_sums(
        self, metrics: Sequence[Metric], num_batches: int, device: torch.device, confusion: Metric | None = None
    ) -> "EvaluationSums":
        form = Format(num_batches, device, self._classes, self._numbers)
        return EvaluationSums(self._loss.for_evaluation(), self._field, metrics, form, confusion)


class EvaluationSums:
    """Loss and metrics of the batches of this rank, then of all ranks."""

    def __init__(
        self,
        loss: Loss,
        field: str | int | None,
        metrics: Sequence[Metric],
        form: Format,
        confusion: Metric | None = None,
    ) -> None:
        self._loss, self._field, self._classes = loss, field, form.classes
        # One element a batch, so that the losses are added in the same order at any number of ranks.
        self._losses, self._weights = torch.zeros(2, form.num_batches, dtype=torch.float64, device=form.device)
        self._count = torch.zeros((), dtype=torch.int64, device=form.device)
        self._metrics: list[Sums] = [metric.open_sums(form) for metric in metrics]
        self._drawn: list[Sums] = [confusion.open_sums(form)] if confusion else []

    @torch.no_grad()
    def add(self, number: int, output: Nest, targets: Nest, num_samples: int) -> None:
        """Count a batch, its output in at least fp32; `number` of the batch in the split. Raises as `Task.loss_sum`."""
        selected = select(output, self._field)
        self._losses[number] = self._loss.sum(selected, targets, num_samples, output)
        if self._loss.divisor == "weights":
            self._weights[number] = self._loss.weigh(targets)
        self._count += num_samples
        for sums in (*self._metrics, *self._drawn):
            sums.add(number, selected, targets, num_samples)

    def reduce(self, world: World) -> None:
        """Add up over all ranks; every rank calls this."""
        for tensor in (self._losses, self._weights, self._count):
            world.sum_(tensor)
        for sums in (*self._metrics, *self._drawn):
            sums.reduce(world)

    def result(self, split: str) -> Evaluation:
        """Return the evaluation, once the sums are those of the whole split."""
        total = self._losses.sum()
        divided = {"samples": total / self._count, "weights": total / self._weights.sum(), "one": total}
        values: dict[str, Any] = {"loss": divided[self._loss.divisor].item()}
        for sums in self._metrics:
            values |= sums.result()
        values.setdefault("count", int(self._count))
        if not self._drawn:
            return Evaluation(split, values)
        return Evaluation(split, values, self._drawn[0].result()["confusion_matrix"], self._classes)
