"""Batches on the device: the stream that trains, and the pieces that are evaluated."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from dist_train.config import Augment, Data
from dist_train.data.augment import Preparation
from dist_train.data.reader import Reader
from dist_train.data.sampler import GlobalBatchSampler, Share
from dist_train.data.samples import Dataset, Samples
from dist_train.world import World

EVAL_BATCH = 250
"""Samples in an evaluation batch; constant, so that every world size cuts the split alike."""


@dataclass(frozen=True)
class Shard:
    """What one rank, real or virtual, trains on in one step."""

    pictures: Tensor
    """Float of torch's default dtype, [B, C, H, W], augmented and normalised, on the rank's device."""
    labels: Tensor
    """int64 [B], on the rank's device."""
    share: int
    """Samples of this rank that count: B, or 0 for a stand-in, which must weigh nothing. A rank without samples still
    takes part in the backward pass and needs a batch that BatchNorm accepts."""
    number: int
    """Its number among the shards of the global batch, from 0: the rank's, if each rank has one."""
    indices: Tensor
    """int64 [share], on the CPU: numbers of the samples in the files' training split."""


@dataclass(frozen=True)
class Batch:
    """This rank's part of one global batch."""

    shards: tuple[Shard, ...]
    count: int
    """Samples in the whole global batch."""
    step: int
    """Number of the step that takes it, from 0."""
    epoch: int
    """Number of the pass over the training samples, from 0."""
    samples: Tensor
    """int64 [count], on the CPU: numbers, in the files' training split, of all samples of the global batch."""
    void: bool = False
    """Whether this rank had no data and takes part with a stand-in, so that no rank makes the step."""


@dataclass(frozen=True)
class EvalBatch:
    """Some samples to evaluate."""

    pictures: Tensor
    """Float of torch's default dtype, [B, C, H, W], normalised, on the rank's device."""
    labels: Tensor
    """int64 [B], on the rank's device."""
    number: int
    """Position of the batch in the split, from 0, the same at every world size."""


class TrainBatches:
    """The training batches of one rank, steps [start_step, stop_step) in one stream over all epochs.

    An iterator and a context manager; `close` ends the loader's workers. The global random state is not touched.

    Raises (while iterating):
        DataError: a picture cannot be read.
    """

    def __init__(
        self,
        dataset: Dataset,
        config: Data,
        seed: int,
        world: World,
        start_step: int,
        stop_step: int,
        memory_format: torch.memory_format = torch.contiguous_format,
        shards: int | None = None,
    ) -> None:
        """`shards`: of a global batch, a multiple of the ranks; default: one a rank."""
        self._world = world
        self._shape = dataset.shape
        self._samples = dataset.train
        self._device = world.device
        self._preparation = Preparation(dataset.normalize, config.augment, seed, world.device, memory_format)
        sampler = GlobalBatchSampler(
            self._samples,
            config.global_batch,
            num_replicas=world.size,
            rank=world.rank,
            seed=seed,
            start_step=start_step,
            stop_step=stop_step,
            shards=shards,
        )
        self._sampler = sampler
        self._shares = sampler.shares()
        self._reader = _reader(self._samples, sampler, dataset, config, world)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        pictures = next(self._reader)
        return self._batch(next(self._shares), pictures)

    def _batch(self, share: Share, pictures: Tensor) -> Batch:
        first = self._world.rank * len(share.parts)
        cuts = zip(torch.split(share.positions, share.parts), torch.split(pictures, share.parts), strict=True)
        return Batch(
            shards=tuple(self._shard(share, first + number, *cut) for number, cut in enumerate(cuts)),
            count=share.count,
            step=share.step,
            epoch=share.epoch,
            samples=self._samples.indices[share.whole],
        )

    def _shard(self, share: Share, number: int, positions: Tensor, pictures: Tensor) -> Shard:
        """Each shard is prepared by itself: the bits must not depend on what else a rank prepares."""
        size = len(positions)
        if size == 0:
            positions = share.stand_in
            pictures = self._samples.pictures_at(positions.tolist())
        indices = self._samples.indices[positions]
        on_device = indices.to(self._device, non_blocking=True)
        pictures = pictures.to(self._device, non_blocking=True)
        return Shard(
            pictures=self._preparation.augmented(pictures, on_device, share.epoch),
            labels=self._samples.labels[positions].to(self._device, non_blocking=True),
            share=size,
            number=number,
            indices=indices[:size],
        )

    def stand_in(self, step: int) -> Batch:
        """A batch that weighs nothing, for a rank that stops while it waits for the data of `step`."""
        whole = self._sampler.whole(step)
        pictures = torch.zeros(2, *self._shape, device=self._device)
        labels = torch.zeros(2, dtype=torch.int64, device=self._device)
        shard = Shard(pictures, labels, 0, self._world.rank, torch.empty(0, dtype=torch.int64))
        return Batch((shard,), len(whole), step, 0, self._samples.indices[whole], void=True)

    def samples_of(self, step: int) -> Tensor:
        """int64 [count]: numbers, in the files' training split, of all samples of the global batch of `step`."""
        return self._samples.indices[self._sampler.whole(step)]

    def close(self) -> None:
        """End the stream, and the loader's workers with it."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def eval_batches(
    samples: Samples,
    dataset: Dataset,
    config: Data,
    world: World,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Iterator[EvalBatch]:
    """The batches of this rank, every `world.size`-th of the split; each sample is in one batch of one rank.

    Raises (while iterating):
        DataError: a picture cannot be read.
    """
    preparation = Preparation(dataset.normalize, Augment(), 0, world.device, memory_format)
    starts = range(0, len(samples), EVAL_BATCH)
    mine = [list(range(start, min(start + EVAL_BATCH, len(samples)))) for start in starts[world.rank :: world.size]]
    with _reader(samples, mine, dataset, config, world) as reader:
        for positions, pictures in zip(mine, reader, strict=True):
            yield EvalBatch(
                pictures=preparation.plain(pictures.to(world.device, non_blocking=True)),
                labels=samples.labels[positions].to(world.device, non_blocking=True),
                number=positions[0] // EVAL_BATCH,
            )


def _reader(
    samples: Samples, batches: GlobalBatchSampler | list[list[int]], dataset: Dataset, config: Data, world: World
) -> Reader:
    workers = config.workers if dataset.loader == "workers" else 0
    return Reader(samples, batches, workers, pin=world.device.type == "cuda")
