"""Batch normalisation by the mean and variance of the global batch, on CPUs and GPUs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode


def has_batch_norm(network: nn.Module) -> bool:
    """Whether a layer normalises by the statistics of its batch."""
    return any(isinstance(layer, _BatchNorm) for layer in network.modules())


class SynchronisedBatchNorm(TorchFunctionMode):
    """A context in which batch normalisation in training counts the samples of all ranks.

    It replaces the function that layers call, not the layers: layers of libraries that do more, such as timm's, are
    synchronised too, and copies, names and classes of a network stay. It stays open in the backward pass, in which
    checkpointed blocks compute their forward pass again.

    All ranks call the same layers in the same order.
    """

    def __init__(self, sum_: Callable[[Tensor], object], rank: int, size: int) -> None:
        """`sum_`: replaces a tensor [n] by its sum over all ranks."""
        self._sum, self._rank, self._size = sum_, rank, size
        self.has_samples = True
        """Whether this rank's samples count; placeholders are normalised only."""
        self._tables: list[Tensor] = []

    def begin_step(self) -> None:
        """Discard the statistics of the step before."""
        self._tables = []

    def is_own_finite(self) -> bool | None:
        """Whether this rank's values were finite in the first layer of the step where some rank's were not, if any."""
        finite = (table.isfinite().all(dim=1) for table in self._tables)
        return next((bool(ranks[self._rank]) for ranks in finite if not ranks.all()), None)

    def __torch_function__(
        self, function: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function of torch, or its replacement here."""
        called = self._normalise if function is functional.batch_norm else function
        return called(*args, **(kwargs or {}))

    def _normalise(
        self,
        values: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """Compute `functional.batch_norm` of the global batch; `values` [B, C, ...] are this rank's."""
        if not training:
            return functional.batch_norm(values, running_mean, running_var, weight, bias, False, momentum, eps)
        dtype = torch.promote_types(values.dtype, torch.float32)
        mean, var, count = self._measure(values.detach(), dtype)
        if running_mean is not None and running_var is not None:
            unbiased = var * (count / (count - 1).clamp(min=1))
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
        scale = torch.ones_like(mean) if weight is None else weight.to(dtype)
        shift = torch.zeros_like(mean) if bias is None else bias.to(dtype)
        output: Tensor = _Normalise.apply(values, scale, shift, mean, var, count, eps, self._sum, self.has_samples)
        return output

    @torch.no_grad()
    def _measure(self, values: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean [C], biased variance [C] and number [] of each channel's values on all ranks.

        Each rank sends mean and variance: a sum of squares would lose the digits of a small variance.
        """
        channels = values.shape[1]
        table = torch.zeros(self._size, 2 * channels + 1, dtype=dtype, device=values.device)
        if self.has_samples:
            # torch adds up bf16 and fp16 values in fp32 if the running statistics are fp32; these are thrown away.
            unread = torch.zeros(2, channels, dtype=dtype, device=values.device)
            mean, var = torch.batch_norm_update_stats(values, unread[0], unread[1], 0.0)
            torch.cat((mean, var, mean.new_full((1,), values.numel() // channels)), out=table[self._rank])
        self._sum(table.view(-1))
        self._tables.append(table)
        means, variances, counts = torch.split(table, [channels, channels, 1], dim=1)
        count = counts.sum()
        mean = (means * counts).sum(0) / count
        var = ((variances + (means - mean).square()) * counts).sum(0) / count
        return mean, var, count


class _Normalise(torch.autograd.Function):
    """Normalise by the mean and variance of the values of all ranks."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        scale: Tensor,
        shift: Tensor,
        mean: Tensor,
        var: Tensor,
        count: Tensor,
        eps: float,
        sum_: Callable[[Tensor], object],
        has_samples: bool,
    ) -> Tensor:
        ctx.save_for_backward(values, scale, mean, var, count)
        ctx.eps, ctx.sum_, ctx.has_samples = eps, sum_, has_samples
        return functional.batch_norm(values, mean, var, scale, shift, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, scale, mean, var, count = ctx.saved_tensors
        # As in evaluation: mean and variance are constants.
        to_values, to_scale, to_shift = torch.ops.aten.native_batch_norm_backward(
            gradient, values, scale, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        if ctx.needs_input_grad[0]:
            # The sums over all ranks, through which each value contributes to mean and variance.
            sums = torch.cat((to_scale, to_shift))
            ctx.sum_(sums)
        if ctx.needs_input_grad[0] and ctx.has_samples:
            factor = -scale * (var + ctx.eps).rsqrt() / count
            by_value, for_all = (sums.view(2, -1) * factor).unbind()
            to_values += functional.batch_norm(values, mean, var, by_value, for_all, False, 0.0, ctx.eps)
        return to_values, to_scale, to_shift, None, None, None, None, None, None
