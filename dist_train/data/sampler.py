"""Choose the samples of each rank at each step, as a function of the seed and the step."""

from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import DistributedSampler

from dist_train.data.orders.order import Order, Shuffled
from dist_train.settings.schedule import samples_per_epoch, steps_per_epoch

PLACEHOLDERS = 2
"""Samples that an empty shard reads: the fewest that batch normalisation accepts."""
BLOCK = 4096
"""Positions that are permuted in one call: small batches share its overhead, and it takes about 0.2 ms."""


@dataclass(frozen=True, slots=True)
class BatchSlice:
    """One rank's part of consecutive global batches, all of one epoch and one size."""

    positions: Tensor
    """int64 [steps * sum(sizes)]: the samples to read, batch after batch, and in each batch shard after shard."""
    parts: list[int]
    """Samples of a batch in each of this rank's shards; 0 where it has fewer samples than shards."""
    global_positions: Tensor
    """int64 [steps * count], the positions of all samples of the global batches."""
    count: int
    """Samples in each global batch."""
    step: int
    """Number of the first of the batches, from 0."""
    steps: int
    """Number of batches."""
    epoch: int

    @property
    def sizes(self) -> list[int]:
        """Samples of a batch that each of this rank's shards reads.

        An empty shard reads two placeholders: the first two samples of the global batch, or its only one twice.
        """
        return [part or PLACEHOLDERS for part in self.parts]


def cut_size(samples: int, limit: int | None) -> list[int]:
    """Cut samples into the fewest passes of at most `limit` samples: nearly equal sizes, the larger ones first."""
    count = -(-samples // (limit or samples))
    return [samples // count + (number < samples % count) for number in range(count)]


class GlobalBatchSampler(DistributedSampler[list[int]]):
    """The positions that one rank takes at each step of [start_step, stop_step), across epochs.

    The order of an epoch depends on (seed, epoch) only; by default it is a permutation. A global batch is the next
    `global_batch` positions of it, fewer at the end of an epoch. It is cut into `shards` contiguous parts, whose sizes
    differ by one at most, the larger ones first, and each rank takes equally many of them in a row: one, if there are
    as many shards as ranks. So rank 0 always has samples, and nothing is padded or dropped, at any number of ranks. The
    epoch follows from the step: `set_epoch` is not needed.

    Usable as the `batch_sampler` of a DataLoader; a rank without samples in a step gets an empty list there.
    """

    def __init__(
        self,
        dataset: Sized,
        global_batch: int,
        *,
        num_replicas: int,
        rank: int,
        seed: int,
        start_step: int,
        stop_step: int,
        shards: int | None = None,
        order: Order | None = None,
        drop_last: bool = False,
    ) -> None:
        """
        Args:
            shards: a multiple of `num_replicas`; default: as many.
            order: which sample is at which position of an epoch; default: shuffled.
            drop_last: leave out the smaller batch at the end of an epoch.
        """
        # DistributedSampler reads only the length of its data set.
        super().__init__(cast("TorchDataset[object]", dataset), num_replicas=num_replicas, rank=rank, seed=seed)
        self.global_batch = global_batch
        self.start_step = start_step
        self.stop_step = stop_step
        self.shards = shards or num_replicas
        self._length = samples_per_epoch(len(dataset), global_batch, drop_last)
        self._order = order or Shuffled(len(dataset), seed)
        self._steps_per_epoch = steps_per_epoch(self._length, global_batch)

    def __len__(self) -> int:
        """Steps in the stream."""
        return max(0, self.stop_step - self.start_step)

    def __iter__(self) -> Iterator[list[int]]:
        """The positions of this rank's samples, step by step."""
        return (found.positions[: sum(found.parts)].tolist() for found in self.slices())

    def slices(self, together: int = 1) -> Iterator[BatchSlice]:
        """Yield this rank's part of up to `together` global batches at a time."""
        block = together * max(1, BLOCK // (together * self.global_batch))
        step = self.start_step
        while step < self.stop_step:
            steps = self._equal_steps(step, block)
            batches = self._global_batches(step, steps)
            for part in torch.split(batches, together):
                yield self._slice(part, step)
                step += len(part)

    @property
    def largest_slice(self) -> int:
        """The largest number of samples that a rank takes in a step."""
        return -(-min(self.global_batch, self._length) // self.shards) * (self.shards // self.num_replicas)

    def _equal_steps(self, step: int, limit: int) -> int:
        """Return how many steps from this one on, up to `limit`, are of one epoch and have batches of one size."""
        full = self._length // self.global_batch - step % self._steps_per_epoch
        return min(limit, max(1, full), self.stop_step - step)  # 1: the smaller batch at the end of the epoch

    def _global_batches(self, step: int, steps: int) -> Tensor:
        """int64 [steps, count], the positions of some global batches of one epoch and one size."""
        epoch, within = divmod(step, self._steps_per_epoch)
        start, end = within * self.global_batch, min((within + steps) * self.global_batch, self._length)
        return self._order.take(torch.arange(start, end), epoch).view(steps, -1)

    def _slice(self, batches: Tensor, step: int) -> BatchSlice:
        """Return this rank's part of global batches, int64 [steps, count]."""
        steps, count = batches.shape
        each, more = divmod(count, self.shards)
        mine = self.shards // self.num_replicas
        numbers = range(self.rank * mine, (self.rank + 1) * mine)
        first = numbers.start * each + min(numbers.start, more)
        parts = [each + (number < more) for number in numbers]
        positions = batches[:, first : first + sum(parts)]
        if empty := parts.count(0):  # they are the last ones
            placeholders = batches[:, [0, min(1, count - 1)]]
            positions = torch.cat([positions, placeholders.repeat(1, empty)], dim=1)
        epoch = step // self._steps_per_epoch
        return BatchSlice(positions.reshape(-1), parts, batches.reshape(-1), count, step, steps, epoch)
