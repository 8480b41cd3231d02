"""Losses as sums over samples, whose mean over the global batch is the same at any number of ranks.

The loss of a global batch is the sum of what its passes give, divided by one number for all ranks, the *divisor*:

    samples   most losses: each sample counts the same
    weights   cross_entropy and nll with class weights or an ignored label: the sum of the weights, as in torch
    one       half_sse: the loss is a sum over the whole batch
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from dist_train.distributed.world import World
from dist_train.errors import ConfigError, DataError
from dist_train.nest import Nest
from dist_train.own_code.load import add_line_number, call, check_call, load, shown_as_own
from dist_train.tasks.output import (
    align,
    describe,
    describe_both,
    find_label_misfit,
    find_label_out_of_range,
    refuse_changes,
    select,
)

Divisor = Literal["samples", "weights", "one"]
_NONE = -(2**62)
"""A label that no sample has."""


class Loss:
    """A loss of a batch."""

    divisor: Divisor = "samples"
    is_own = False
    """Whether it is the user's code."""

    def __init__(self, name: str) -> None:
        self.name = name
        """What messages call it."""

    def sum(self, output: Nest, targets: Nest, num_samples: int, whole: Nest) -> Tensor:
        """Return the sum of the losses of a batch, float [], not yet divided.

        Args:
            output: the field of the network's output that losses get.
            num_samples: samples in the batch.
            whole: the network's whole output.

        Raises:
            DataError: output and target do not fit together.
            ConfigError: the user's loss returns none.
            OwnCodeError: it raises.
        """
        raise NotImplementedError

    def weigh(self, targets: Tensor) -> Tensor:
        """Return the sum of the weights of a batch, float64 []; for the divisor `weights`."""
        raise NotImplementedError

    def for_evaluation(self) -> "Loss":
        """Return the loss that an evaluation reports."""
        return self


class ElementLoss(Loss):
    """A loss of each number of the output; that of a sample is the mean of its numbers, as in torch.

    Of complex numbers it is that of their distance.
    """

    def __init__(self, name: str, function: Callable[..., Tensor], arguments: Mapping[str, Any] | None = None) -> None:
        super().__init__(name)
        self._function, self._arguments = function, dict(arguments or {})

    def sum(self, output: Nest, targets: Nest, num_samples: int, whole: Nest) -> Tensor:  # noqa: ARG002
        aligned = align(output, targets)
        if aligned is None or (output.is_complex() and self.name == "bce_with_logits"):
            raise DataError(
                f"loss {self.name}: {describe_both(output, targets)}; it needs numbers of one shape, [B] or [B, ...]"
            )
        if output.is_complex():
            output = (output - aligned).abs()
            aligned = torch.zeros_like(output)
        given = {
            key: value.to(output.dtype) if isinstance(value, Tensor) else value
            for key, value in self._arguments.items()
        }
        for key, value in given.items():
            if isinstance(value, Tensor) and value.shape not in ((), output.shape[1:], output.shape[-1:]):
                raise ConfigError(f"loss.args.{key} has {len(value)} numbers, and a sample {list(output.shape[1:])}")
        return self._divide(self._function(output, aligned, reduction="sum", **given), math.prod(output.shape[1:]))

    def _divide(self, total: Tensor, numbers: int) -> Tensor:
        return total / numbers if numbers > 1 else total


class HalfSumOfSquares(ElementLoss):
    """Half the sum of squared errors over a whole batch, as in lessons on fitting a line."""

    divisor: Divisor = "one"

    def __init__(self, name: str) -> None:
        super().__init__(name, functional.mse_loss)

    def _divide(self, total: Tensor, numbers: int) -> Tensor:  # noqa: ARG002
        return total / 2


class LabelLoss(Loss):
    """A loss of logits or log-probabilities, [B, C, ...], and labels, [B, ...], or shares of classes like the output.

    Without weights and without an ignored label, the loss of a sample is the mean over its labels.
    """

    def __init__(
        self,
        name: str,
        function: Callable[..., Tensor],
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        smoothing: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(name)
        self._function, self._weight, self._smoothing = function, weight, smoothing or {}
        self._ignored = ignore_index
        if weight is not None or ignore_index is not None:
            self.divisor = "weights"

    def sum(self, output: Nest, targets: Nest, num_samples: int, whole: Nest) -> Tensor:  # noqa: ARG002
        if misfit := find_label_misfit(output, targets):
            raise DataError(f"loss {self.name}: {describe_both(output, targets)}; {misfit}")
        weight = None if self._weight is None else self._weight.to(output.dtype)
        if weight is not None and len(weight) != output.shape[1]:
            raise ConfigError(
                f"loss.args.weight has {len(weight)} numbers, but the output has {output.shape[1]} classes"
            )
        if not targets.is_floating_point():
            targets = targets.to(torch.int64)
        ignored = _NONE if self._ignored is None else self._ignored
        try:
            total = self._function(
                output, targets, weight, ignore_index=ignored, reduction="sum", **self._smoothing
            )  # fmt: skip
        except (IndexError, RuntimeError) as error:
            misfit = find_label_out_of_range(output, targets, self._ignored)
            raise DataError(f"loss {self.name}: {misfit or error}") from error
        each = math.prod(output.shape[2:])
        return total if self.divisor == "weights" or each == 1 else total / each

    def weigh(self, targets: Tensor) -> Tensor:
        if targets.is_floating_point():  # torch divides by the number of samples
            return torch.tensor(targets.numel() / targets.shape[1], dtype=torch.float64, device=targets.device)
        counted = targets != (_NONE if self._ignored is None else self._ignored)
        if self._weight is None:
            return counted.sum(dtype=torch.float64)
        labels = torch.where(counted, targets, 0).flatten().to(torch.int64)
        return self._weight.to(torch.float64).index_select(0, labels).mul(counted.flatten()).sum()

    def for_evaluation(self) -> Loss:
        return LabelLoss(self.name, self._function, self._weight, self._ignored)


class OwnLoss(Loss):
    """The user's function, which returns the mean over a batch or one value a sample."""

    is_own = True

    def __init__(self, name: str, function: Callable[[Nest, Nest], Any], rank: int = 0) -> None:
        super().__init__(name)
        self._function, self._rank = function, rank

    def sum(self, output: Nest, targets: Nest, num_samples: int, whole: Nest) -> Tensor:  # noqa: ARG002
        called = f"called with {describe(output)} and {describe(targets)} on rank {self._rank},"
        with refuse_changes(f"loss {self.name}", output, targets), shown_as_own(f"loss {self.name}, {called}"):
            value = self._function(output, targets)
        return sum_values(value, num_samples, f"loss {self.name}")


class LossOfNetwork(Loss):
    """A loss that the network has computed, in a field of its output: the mean over a batch or one value a sample."""

    is_own = True

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._field = name.partition(".")[2]

    def sum(self, output: Nest, targets: Nest, num_samples: int, whole: Nest) -> Tensor:  # noqa: ARG002
        return sum_values(select(whole, self._field, "loss.name"), num_samples, f"loss {self.name}")


def sum_values(value: Any, num_samples: int, what: str) -> Tensor:
    """Return the sum over a batch of what the user's code returned; raises ConfigError if it is no loss."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        fault = f"returns {describe(value)}, not a tensor of floats"
    elif value.shape == (num_samples,):
        return value.sum()
    elif value.dim() == 0:
        return value * num_samples
    else:
        fault = f"returns {describe(value)} for {num_samples} samples"
    raise ConfigError(f"{what}: {fault}; it must return the mean over the batch, [], or one value a sample, [B]")


BUILT_IN: dict[str, Callable[..., Tensor]] = {
    "mse": functional.mse_loss,
    "mae": functional.l1_loss,
    "huber": functional.huber_loss,
    "bce_with_logits": functional.binary_cross_entropy_with_logits,
}
_OF_LABELS: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": functional.cross_entropy,
    "nll": functional.nll_loss,
}


def build_loss(name: str, arguments: Mapping[str, Any], world: World) -> Loss:
    """Return the loss of this name or reference.

    Raises:
        ConfigError: a reference leads to no function, or its arguments do not fit.
        OwnCodeError: the user's code fails.
    """
    given = {key: value for key, value in arguments.items() if value is not None}
    tensors = {key: torch.tensor(value, dtype=torch.float64, device=world.device)
               for key, value in given.items() if key in ("weight", "pos_weight")}  # fmt: skip
    if name == "half_sse":
        return HalfSumOfSquares(name)
    if name in _OF_LABELS:
        smoothing = {key: value for key, value in given.items() if key == "label_smoothing"}
        return LabelLoss(name, _OF_LABELS[name], tensors.get("weight"), given.get("ignore_index"), smoothing)
    if name in BUILT_IN:
        return ElementLoss(name, BUILT_IN[name], {**given, **tensors})
    if name.startswith("output."):
        return LossOfNetwork(name)
    return _open_own(name, arguments, world)


def _open_own(name: str, arguments: Mapping[str, Any], world: World) -> OwnLoss:
    found = load(name, "loss.name")
    if isinstance(found, type):
        found, arguments = call(name, "loss.name", arguments), {}
    if isinstance(found, nn.Module):
        if any(parameter.requires_grad for parameter in found.parameters()):
            raise ConfigError(f"loss {name}: it has parameters to train; make it a part of the model, which has them")
        found = found.to(world.device)
    if not callable(found):
        raise ConfigError(f"loss {name}: is a {type(found).__name__}, and no function f(output, target)")
    function = partial(found, **arguments) if arguments else found
    check_call(function, f"loss {name}", "output", "target")
    return OwnLoss(add_line_number(name, found), function, world.rank)
