"""The mean gradient with the same bits at any number of ranks."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dist_train.distributed.buffers import BufferSlots
from dist_train.distributed.reduction import LOSS_SUM, STOP_REQUESTS, GradientReduction
from dist_train.distributed.shared_memory import SharedMemory
from dist_train.distributed.world import World
from dist_train.errors import ConfigError
from dist_train.models.freeze import keeps_statistics

_ALIGNMENT = 16
"""Offsets are rounded up to multiples of this many elements: 64 bytes of fp32, torch's own alignment of tensors."""
_SHARDS = 2
"""Position of the number of shards with samples, after the scalars."""
_TAIL = 3


class ShardedTreeReduction(GradientReduction):
    """Sums in one fixed binary tree over the shards of a global batch, whichever ranks compute them.

    Rank r of W computes shards [r S/W, (r+1) S/W) one after another and adds them pair by pair. Then ranks whose
    numbers differ in one bit exchange their sums, the lowest bit first. A sum of two is the same in either order, so
    all ranks get the bits that one rank alone would. Floating-point buffers (running statistics) are the mean over
    shards; each shard starts from those before the step. Virtual ranks as in EasyScale (Li et al., SC23).

    Gradients, buffers and scalars of a shard are one flat tensor, so that one operation adds two shards.
    """

    def __init__(self, model: nn.Module, network: nn.Module, world: World, memory: SharedMemory | None = None) -> None:
        """
        Args:
            memory: where the ranks of one machine add up; it gives the same bits as an exchange.

        Raises:
            ConfigError: the parameters have several dtypes.
        """
        super().__init__(model, network, world)
        self._world, self._memory = world, memory
        self._check_dtypes()
        self._buffers = BufferSlots(network)
        # A mean of equal numbers may be another one: of three shards, their third part is rounded.
        self._statistics = BufferSlots(network, Tensor.is_floating_point, skipped=keeps_statistics)
        self._before_step: list[Tensor] = []
        parts = [*self._parameters, *self._statistics.current()]
        offsets, end = _offsets(parts)
        self._flat = torch.zeros(end + _TAIL, dtype=self._dtype, device=world.device)
        views = [self._flat.as_strided(part.size(), part.stride(), at) for part, at in zip(parts, offsets, strict=True)]
        self._gradient_views = views[: len(self._parameters)]
        self._statistics_views = views[len(self._parameters) :]
        self._tail = self._flat[-_TAIL:]
        self._sums: list[tuple[int, Tensor]] = []

    def begin(self, stop_requested: bool) -> None:
        super().begin(stop_requested)
        self._sums = []
        self._before_step = [buffer.detach().clone() for buffer in self._buffers.current()]
        for parameter, view in zip(self._parameters, self._gradient_views, strict=True):
            parameter.grad = view

    @contextmanager
    def shard(self, has_samples: bool) -> Iterator[None]:
        self._flat.zero_()
        self._buffers.restore(self._before_step)
        yield
        if has_samples:
            self._tail[_SHARDS] = 1
            for view, buffer in zip(self._statistics_views, self._statistics.current(), strict=True):
                view.copy_(buffer.detach())
        self._add_to_tree(self._flat.clone())

    def record_loss(self, loss: Tensor, has_samples: bool) -> Tensor:
        loss = super().record_loss(loss, has_samples)
        if has_samples:
            self._tail[LOSS_SUM] += self._losses[-1]
        return loss

    def finish(self) -> Tensor:
        ((_, total),) = self._sums
        total[-_TAIL + STOP_REQUESTS] = float(self._stop_requested)
        self._flat.copy_(self._sum_over_ranks(total))
        with torch.no_grad():
            for buffer, view in zip(self._statistics.current(), self._statistics_views, strict=True):
                buffer.copy_(view / self._tail[_SHARDS])
        return self._tail[:_SHARDS].clone()

    def _check_dtypes(self) -> None:
        if others := {parameter.dtype for parameter in self._parameters} - {self._dtype}:
            raise ConfigError(
                f"model: it has weights of {', '.join(map(str, others))}, and run.reproducible=bitwise adds up "
                f"{self._dtype} only; give all weights that type, or use run.reproducible=elastic"
            )

    def _sum_over_ranks(self, total: Tensor) -> Tensor:
        if self._memory:
            self._memory.sum_(total)
            return total
        distance = 1
        while distance < self._world.size:
            total = total + self._world.exchange(total, self._world.rank ^ distance)
            distance *= 2
        return total

    def _add_to_tree(self, leaf: Tensor) -> None:
        """Add the next shard: sums over equally many shards are added at once."""
        level = 0
        while self._sums and self._sums[-1][0] == level:
            leaf = self._sums.pop()[1] + leaf
            level += 1
        self._sums.append((level, leaf))


def _offsets(tensors: Iterable[Tensor]) -> tuple[list[int], int]:
    """Aligned offsets of tensors side by side, and how many elements they take together."""
    offsets, end = [], 0
    for tensor in tensors:
        offsets.append(end)
        end += -(-tensor.numel() // _ALIGNMENT) * _ALIGNMENT
    return offsets, end
