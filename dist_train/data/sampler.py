"""Which samples each rank takes at each step: a function of the seed and the step."""

from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import DistributedSampler

from dist_train.data.order import Orders
from dist_train.settings.schedule import steps_per_epoch

STAND_INS = 2
"""Samples of a shard that has none of its own: the least that batch normalisation accepts."""


@dataclass(frozen=True)
class Share:
    """What one rank takes of some global batches in a row, all of one epoch and one size."""

    positions: Tensor
    """int32 or int64 [steps * sum(sizes)]: what it reads, batch after batch, and in each shard after shard."""
    parts: list[int]
    """How many samples of a batch belong to each of this rank's shards; 0 where it has fewer samples than shards."""
    whole: Tensor
    """int32 or int64 [steps * count], the positions of the whole global batches."""
    count: int
    """Samples in each whole global batch."""
    step: int
    """Number of the first of the batches, from 0."""
    steps: int
    """How many batches there are."""
    epoch: int

    @property
    def sizes(self) -> list[int]:
        """How many samples of a batch each of this rank's shards reads.

        One that has none reads two to stand in for them: the first of the global batch, the only one twice.
        """
        return [part or STAND_INS for part in self.parts]


class GlobalBatchSampler(DistributedSampler[list[int]]):
    """The positions that one rank takes at each step of [start_step, stop_step), across epochs.

    The order of an epoch is a permutation drawn from (seed, epoch) alone. A global batch is the next `global_batch` of
    it, fewer at the end of an epoch. It is cut into `shards` contiguous parts, which differ by one sample at most, the
    larger ones first, and each rank takes equally many of them in a row: one, if there are as many shards as ranks. So
    rank 0 always has some samples, and nothing is padded and nothing dropped, at any number of ranks. The epoch follows
    from the step: nobody has to call `set_epoch`.

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
    ) -> None:
        """`shards`: a multiple of `num_replicas`; default: as many."""
        # DistributedSampler asks its data set for the length only.
        super().__init__(cast("TorchDataset[object]", dataset), num_replicas=num_replicas, rank=rank, seed=seed)
        self.global_batch = global_batch
        self.start_step = start_step
        self.stop_step = stop_step
        self.shards = shards or num_replicas
        self._orders = Orders(len(dataset), seed)
        self._length = len(dataset)
        self._steps_per_epoch = steps_per_epoch(self._length, global_batch)

    def __len__(self) -> int:
        """Steps in the stream."""
        return max(0, self.stop_step - self.start_step)

    def __iter__(self) -> Iterator[list[int]]:
        """The positions of this rank's samples, step by step."""
        return (share.positions[: sum(share.parts)].tolist() for share in self.shares())

    def shares(self, together: int = 1) -> Iterator[Share]:
        """What this rank takes, of as many as `together` global batches at a time."""
        step = self.start_step
        while step < self.stop_step:
            epoch, within = divmod(step, self._steps_per_epoch)
            whole = max(1, self._length // self.global_batch - within)  # 1: the smaller one at the end
            steps = min(together, whole, self.stop_step - step)
            batches = self._batches(epoch, within, steps)
            if (epoch + 1) * self._steps_per_epoch < self.stop_step:
                self._orders.expect(epoch + 1)
            yield self._share(batches.view(steps, -1), step, epoch)
            step += steps

    def _share(self, batches: Tensor, step: int, epoch: int) -> Share:
        """Of global batches, [steps, count], what this rank takes."""
        steps, count = batches.shape
        each, more = divmod(count, self.shards)
        mine = self.shards // self.num_replicas
        numbers = range(self.rank * mine, (self.rank + 1) * mine)
        first = numbers.start * each + min(numbers.start, more)
        parts = [each + (number < more) for number in numbers]
        positions = batches[:, first : first + sum(parts)]
        if empty := parts.count(0):  # they are the last ones
            stand_in = batches[:, [0, min(1, count - 1)]]
            positions = torch.cat([positions, stand_in.repeat(1, empty)], dim=1)
        return Share(positions.reshape(-1), parts, batches.reshape(-1), count, step, steps, epoch)

    @property
    def largest_share(self) -> int:
        """The most samples that a rank takes in a step."""
        return -(-min(self.global_batch, self._length) // self.shards) * (self.shards // self.num_replicas)

    def expect_first(self) -> None:
        """Have the first order drawn by a thread."""
        self._orders.expect(self.start_step // self._steps_per_epoch)

    def close(self) -> None:
        """Wait for the end of the thread that draws an order ahead, if there is one."""
        self._orders.close()

    def whole(self, step: int) -> Tensor:
        """int32 or int64 [count], the positions of the whole global batch of a step."""
        epoch, within = divmod(step, self._steps_per_epoch)
        return self._batches(epoch, within, 1)

    def _batches(self, epoch: int, within: int, steps: int) -> Tensor:
        """Positions of some whole global batches of an epoch, one after another."""
        start, end = within * self.global_batch, min((within + steps) * self.global_batch, self._length)
        return self._orders.of(epoch, end)[start:end]
