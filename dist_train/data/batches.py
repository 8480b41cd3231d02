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
class Batch:
    """What one rank trains on in one step."""

    pictures: Tensor
    """Float of torch's default dtype, [B, C, H, W], augmented and normalised, on the rank's device."""
    labels: Tensor
    """int64 [B], on the rank's device."""
    share: int
    """Samples of this rank that count: B, or 0 for a stand-in, which must weigh nothing. A rank without samples still
    takes part in the backward pass and needs a batch that BatchNorm accepts."""
    count: int
    """Samples in the whole global batch."""
    step: int
    """Number of the step that takes it, from 0."""
    epoch: int
    """Number of the pass over the training samples, from 0."""
    indices: Tensor
    """int64 [share], on the CPU: numbers of the samples in the files' training split."""


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
    ) -> None:
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
        )
        self._shares = sampler.shares()
        self._reader = _reader(self._samples, sampler, dataset, config, world)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        pictures = next(self._reader)
        return self._batch(next(self._shares), pictures)

    def _batch(self, share: Share, pictures: Tensor) -> Batch:
        positions = share.positions
        if len(positions) == 0:
            positions = share.stand_in
            pictures = self._samples.pictures_at(positions.tolist())
        indices = self._samples.indices[positions]
        on_device = indices.to(self._device, non_blocking=True)
        pictures = pictures.to(self._device, non_blocking=True)
        return Batch(
            pictures=self._preparation.augmented(pictures, on_device, share.epoch),
            labels=self._samples.labels[positions].to(self._device, non_blocking=True),
            share=len(share.positions),
            count=share.count,
            step=share.step,
            epoch=share.epoch,
            indices=indices[: len(share.positions)],
        )

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
