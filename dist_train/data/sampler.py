"""Which samples each rank takes at each step: a function of the seed and the step."""

from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import DistributedSampler

from dist_train import seeds
from dist_train.plan import steps_per_epoch


@dataclass(frozen=True)
class Share:
    """What one rank takes of one global batch."""

    positions: Tensor
    """int64 [S], in the order of the global batch; empty where it has fewer samples than there are shards."""
    parts: list[int]
    """How many of the positions, from the first on, belong to each of this rank's shards."""
    whole: Tensor
    """int64 [count], the positions of the whole global batch."""
    stand_in: Tensor
    """int64 [2]: the first samples of the global batch, the only one twice, for a rank that has none of its own."""
    count: int
    """Samples in the whole global batch."""
    step: int
    epoch: int


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
        self._length = len(dataset)

    def __len__(self) -> int:
        """Steps in the stream."""
        return max(0, self.stop_step - self.start_step)

    def __iter__(self) -> Iterator[list[int]]:
        """The positions of this rank's samples, step by step."""
        return (share.positions.tolist() for share in self.shares())

    def shares(self) -> Iterator[Share]:
        """The same with what else there is to know of each step."""
        steps = steps_per_epoch(self._length, self.global_batch)
        drawn, order = -1, torch.empty(0, dtype=torch.int64)
        for step in range(self.start_step, self.stop_step):
            epoch, within = divmod(step, steps)
            if epoch != drawn:
                drawn, order = epoch, self._order(epoch)
            batch = order[within * self.global_batch : (within + 1) * self.global_batch]
            yield self._share(batch, step, epoch)

    def _order(self, epoch: int) -> Tensor:
        return torch.randperm(self._length, generator=seeds.generator(self.seed, "order", epoch))

    def _share(self, batch: Tensor, step: int, epoch: int) -> Share:
        each, more = divmod(len(batch), self.shards)
        mine = self.shards // self.num_replicas
        numbers = range(self.rank * mine, (self.rank + 1) * mine)
        first = numbers.start * each + min(numbers.start, more)
        parts = [each + (number < more) for number in numbers]
        return Share(batch[first : first + sum(parts)], parts, batch, batch[:2].repeat(2)[:2], len(batch), step, epoch)

    def whole(self, step: int) -> Tensor:
        """int64 [count], the positions of the whole global batch of a step."""
        epoch, within = divmod(step, steps_per_epoch(self._length, self.global_batch))
        return self._order(epoch)[within * self.global_batch : (within + 1) * self.global_batch]
