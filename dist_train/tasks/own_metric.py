"""The user's metrics: a function, or an object like those of torchmetrics."""

import copy
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dist_train.distributed.world import World
from dist_train.errors import ConfigError
from dist_train.nest import Nest
from dist_train.own_code.load import shown_as_own
from dist_train.tasks.output import describe, refuse_changes
from dist_train.tasks.sums import Format, Sums, ratio

States = dict[str, Any]
"""The states of one batch by name: tensors, or lists of tensors."""


class FunctionSums(Sums):
    """Values of a function of output and target, which returns the mean over a batch or one value a sample."""

    def __init__(self, form: Format, name: str, reference: str, function: Callable[..., Any], rank: int) -> None:
        self._name, self._reference, self._function, self._rank = name, reference, function, rank
        self._values = torch.zeros(form.num_batches, dtype=torch.float64, device=form.device)
        self._samples = torch.zeros(form.num_batches, dtype=torch.int64, device=form.device)

    def add(self, number: int, output: Nest, targets: Nest, num_samples: int) -> None:
        with _called(self._reference, number, self._rank, output, targets):
            value = self._function(output, targets)
        self._values[number] = _sum_values(value, num_samples, self._reference)
        self._samples[number] = num_samples

    def tensors(self) -> list[Tensor]:
        return [self._values, self._samples]

    def result(self) -> dict[str, Any]:
        return {self._name: ratio(self._values.sum().item(), int(self._samples.sum()))}


@contextmanager
def _called(reference: str, number: int, rank: int, output: Nest, targets: Nest) -> Iterator[None]:
    """Show an exception in a block as one of a metric; raise ConfigError if it changes what others get."""
    called = f"called with batch {number} of the evaluation on rank {rank},"
    with refuse_changes(f"metric {reference}", output, targets), shown_as_own(f"metric {reference}, {called}"):
        yield


def _sum_values(value: Any, num_samples: int, reference: str) -> Tensor | float:
    """Return the sum over a batch of what a metric returned; raises ConfigError if it is no number."""
    if isinstance(value, bool | int | float):
        return float(value) * num_samples
    if isinstance(value, Tensor) and not value.is_complex():
        if value.shape == (num_samples,):
            return value.detach().to(torch.float64).sum()
        if value.dim() == 0:
            return value.detach().to(torch.float64) * num_samples
    if not isinstance(value, Tensor) and hasattr(value, "item") and getattr(value, "shape", None) == ():  # NumPy's
        return float(value.item()) * num_samples
    raise ConfigError(
        f"metric {reference}: returns {describe(value)} for {num_samples} samples; it must return the mean over the "
        "batch, a number, or one value a sample, [B]"
    )


class ObjectSums(Sums):
    """States of a metric object, one set a batch; merged in the order of the batches, as the object itself would."""

    def __init__(self, form: Format, name: str, reference: str, metric: Any, rank: int) -> None:
        self._name, self._reference, self._rank = name, reference, rank
        self._device = form.device
        self._metric = copy.deepcopy(metric)
        if hasattr(self._metric, "to"):
            self._metric = self._metric.to(form.device)
        self._metric.sync_on_compute = False  # torchmetrics would add up the ranks once more
        self._batches: dict[int, States] = {}

    def add(self, number: int, output: Nest, targets: Nest, num_samples: int) -> None:  # noqa: ARG002
        with _called(self._reference, number, self._rank, output, targets):
            self._metric.reset()
            self._metric.update(output, targets)
        self._batches[number] = {state: _copy(getattr(self._metric, state)) for state in self._metric._defaults}

    def reduce(self, world: World) -> None:
        own = io.BytesIO()
        torch.save(self._batches, own)
        sent = [
            world.broadcast_bytes(own.getvalue() if rank == world.rank else None, rank) for rank in range(world.size)
        ]
        for content in sent:
            self._batches |= torch.load(io.BytesIO(content), map_location=self._device, weights_only=True)

    def result(self) -> dict[str, Any]:
        ordered = [self._batches[number] for number in sorted(self._batches)]
        with shown_as_own(f"metric {self._reference}, asked for its value on rank {self._rank},"):
            self._metric.reset()
            for state, reduction in self._metric._reductions.items():
                if ordered:
                    setattr(self._metric, state, _merge([batch[state] for batch in ordered], reduction))
            self._metric._update_count = len(ordered)  # else torchmetrics warns
            value = self._metric.compute()
        return _name_values(self._name, value, self._reference)


def is_metric_object(value: Any) -> bool:
    """Whether this is an object like those of torchmetrics."""
    return all(callable(getattr(value, name, None)) for name in ("update", "compute", "reset"))


def check_states(metric: Any, reference: str) -> None:
    """Raise ConfigError if a metric object has no states that ranks can merge."""
    if not isinstance(getattr(metric, "_reductions", None), dict) or not isinstance(metric._defaults, dict):
        raise ConfigError(
            f"metric {reference}: has no states that ranks can add up; make it a torchmetrics.Metric with add_state, "
            "or a function f(output, target); list the parts of a collection one by one"
        )


def _copy(state: Any) -> Any:
    return [_copy(each) for each in state] if isinstance(state, list) else state.detach().clone()


def _merge(states: list[Any], reduction: Callable[[Tensor], Tensor] | None) -> Any:
    """Merge one state of all batches: lists are put together, tensors are reduced one after the other."""
    if isinstance(states[0], list):
        return [each for state in states for each in state]
    if reduction is None:
        return torch.stack(states)
    merged = states[0]
    for number, state in enumerate(states[1:], start=2):
        if getattr(reduction, "__name__", "") == "dim_zero_mean":  # the mean over the batches so far
            merged = ((number - 1) * merged + state) / number
        else:
            merged = reduction(torch.stack((merged, state)))
    return merged


def _name_values(name: str, value: Any, reference: str) -> dict[str, Any]:
    """Return what a metric object computed: a number, a list for each class, or several by name."""
    if isinstance(value, dict):
        return {
            f"{name}_{key}": each
            for key, inner in value.items()
            for each in _name_values("", inner, reference).values()
        }
    if isinstance(value, bool | int | float):
        return {name: float(value)}
    if isinstance(value, Tensor) and value.dim() <= 2:
        return {name: value.item() if value.numel() == 1 else value.tolist()}
    raise ConfigError(f"metric {reference}: computes {describe(value)}; it must be a number, or numbers by name")
