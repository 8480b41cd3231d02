"""Training and evaluation batches on the device.

Small batches are prepared several at a time and then split: with four images, the calls cost ten times as much as the
images. Augmentation and normalisation work on each image separately, so that this changes no bit.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from dist_train.data.augment import open_preparation
from dist_train.data.loader import Request, SampleLoader
from dist_train.data.orders.order import build_order
from dist_train.data.sampler import BatchSlice, GlobalBatchSampler, cut_size
from dist_train.data.samples import DataFormat, Dataset, Samples, Shape, to_device
from dist_train.distributed.world import World
from dist_train.nest import Nest, map_tensors, split_nest
from dist_train.settings.schema import Data, Noise
from dist_train.system.stop_signals import Stop, StopRequested

EVAL_BATCH = 250
"""Samples in an evaluation batch, at least; the same at every world size."""
EVAL_PIXELS = 2**20
"""Pixels in an evaluation batch on a GPU, unless `EVAL_BATCH` has more: of small images, a GPU takes many at once."""
AHEAD = {"cpu": 2**22, "cuda": 2**25}
"""Bytes of prepared images up to which batches are prepared together, by the device of the stored images.
The first calls after a step are cold and take several times as long as later ones, so many are made at once: as much as
a CPU's last-level cache holds beside a step's tensors, or keeps a GPU busy for longer than the calls take. A larger
batch is prepared alone."""
READ_TOGETHER = 512
"""Samples of the user's data set that are read together: a call of the loader costs as much as some hundred
small ones, and to stack more at once takes longer for each."""
STOP_GRACE = 30.0
"""Seconds that one of several ranks waits for data after a stop was requested; late data lets all finish the step."""
ALIGNMENT = 512
"""Alignment in bytes of the inputs of each batch, as of a new allocation. Libraries choose their kernels by it, and it
must not depend on the step at which a process started."""


@dataclass(frozen=True, slots=True)
class Pass:
    """The samples of one forward and backward pass."""

    inputs: Nest
    """What the network is called with, on the rank's device: tensors whose first dimension is B. Of a data set of
    images: float of torch's default dtype, [B, C, H, W], augmented and normalised."""
    targets: Nest
    """What the loss compares the output with, on the rank's device. Of a data set of images: labels, int64 [B]."""
    num_samples: int
    """B."""


@dataclass(frozen=True, slots=True)
class Shard:
    """The samples of one shard in one step."""

    passes: tuple[Pass, ...]
    """Its samples in order: one pass, or several of nearly equal size to accumulate gradients."""
    num_samples: int
    """Samples that count: all, or 0 for placeholders, which must have weight 0. A rank without samples takes part in
    the backward pass and needs a batch that BatchNorm accepts."""
    number: int
    """Number of the shard in the global batch, from 0: the rank, if each rank has one shard."""
    indices: Tensor
    """int64 [num_samples], on the CPU: numbers of the samples in the files' training split."""


@dataclass(frozen=True, slots=True)
class Batch:
    """This rank's part of one global batch."""

    shards: tuple[Shard, ...]
    count: int
    """Samples in the whole global batch."""
    step: int
    """Number of its step, from 0."""
    epoch: int
    """Number of the pass over the training samples, from 0."""
    samples: Tensor
    """int64 [count], on the CPU: numbers, in the files' training split, of all samples of the global batch."""


@dataclass(frozen=True)
class EvalBatch:
    """Consecutive samples to evaluate."""

    inputs: Nest
    """What the network is called with, as in `Pass`, without augmentation."""
    targets: Nest
    """What the loss compares the output with, as in `Pass`."""
    num_samples: int
    """B."""
    number: int
    """Position of the batch in the split, from 0, the same at every world size."""


class TrainBatches:
    """The training batches of one rank, steps [start_step, stop_step) in one stream over all epochs.

    An iterator and a context manager; `close` ends the loader's workers. The global random state is not touched.

    Raises (while iterating):
        DataError: a sample cannot be read.
        StopRequested: a stop was requested while this rank waited for the loader's workers: at once in a single
            process, after `STOP_GRACE` seconds without data in one of several ranks.
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
        stop: Stop | None = None,
        micro_batch: int | None = None,
    ) -> None:
        """
        Args:
            shards: of a global batch, a multiple of the ranks; default: one a rank.
            micro_batch: largest number of samples in one pass; default: no limit.
        """
        self._world = world
        self._samples = dataset.train
        self._device = world.device
        self._micro_batch = micro_batch
        self._is_own = dataset.normalize is None
        augment = getattr(config, "augment", None)
        changes = augment if isinstance(augment, Noise) else Noise()  # the user's changes are in the samples
        self._preparation = open_preparation(dataset.normalize, changes, seed, world.device, memory_format)
        self._sampler = GlobalBatchSampler(
            self._samples,
            config.global_batch,
            num_replicas=world.size,
            rank=world.rank,
            seed=seed,
            start_step=start_step,
            stop_step=stop_step,
            shards=shards,
            order=build_order(config, self._samples, seed),
            drop_last=config.drop_last,
        )
        self._pending: deque[BatchSlice] = deque()
        # Ranks that have data are in the step's reduction already: they would lose the step.
        stop_after_seconds = STOP_GRACE if world.size > 1 else 0.0
        self._loader = _open_loader(self._samples, self._requests(), dataset, config, world, stop, stop_after_seconds)
        self._stream = self._batches()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        return next(self._stream)

    def _requests(self) -> Iterator[Request]:
        """What to load; each slice is also queued in `_pending`, because workers read ahead."""
        for part in self._sampler.slices(self._count_batches_together()):
            self._pending.append(part)
            yield Request(part.positions, part.epoch, self._cut_passes(part) * part.steps)

    def _cut_passes(self, part: BatchSlice) -> list[int]:
        """Return the samples of each pass of a step."""
        return [size for samples in part.sizes for size in cut_size(samples, self._micro_batch)]

    def _count_batches_together(self) -> int:
        """Number of batches that are prepared at a time."""
        source = self._samples.source
        numbers = source.sample_bytes * self._sampler.largest_slice
        numbers = max(1, numbers)  # samples of texts have no bytes of tensors
        together = AHEAD[source.device.type] // (numbers * torch.get_default_dtype().itemsize)
        if self._is_own:
            together = min(together, READ_TOGETHER // self._sampler.largest_slice)
        return max(1, together)

    def _batches(self) -> Iterator[Batch]:
        for loaded in self._loader:
            yield from self._cut(self._pending.popleft(), loaded)

    def _cut(self, part: BatchSlice, loaded: list[Nest]) -> Iterator[Batch]:
        shards = self._shards(part, loaded)
        numbers_of_steps = torch.split(self._samples.numbers(part.global_positions), part.count)
        for step, numbers in enumerate(numbers_of_steps, start=part.step):
            yield Batch(tuple(islice(shards, len(part.parts))), part.count, step, part.epoch, numbers)

    def _shards(self, part: BatchSlice, loaded: list[Nest]) -> Iterator[Shard]:
        """Yield the shards of all batches of a slice, prepared together."""
        numbers = self._samples.numbers(part.positions)
        passes = self._passes(part, loaded, numbers)
        first = self._world.rank * len(part.parts)
        counts = [len(cut_size(size, self._micro_batch)) for size in part.sizes]
        shards = zip(enumerate(part.parts, start=first), counts, strict=True)
        for ((number, num_samples), count), indices in zip(
            cycle(shards), torch.split(numbers, part.sizes * part.steps), strict=False
        ):
            yield Shard(tuple(islice(passes, count)), num_samples, number, indices if num_samples else indices[:0])

    def _passes(self, part: BatchSlice, loaded: list[Nest], numbers: Tensor) -> Iterator[Pass]:
        """Yield the passes of all batches of a slice; images come together, and are cut when they are prepared."""
        sizes = self._cut_passes(part) * part.steps
        cuts = torch.split(numbers, sizes) if len(loaded) > 1 else [numbers]
        for each, those in zip(loaded, cuts, strict=True):
            inputs, targets = map_tensors(partial(to_device, device=self._device), each)
            prepared = self._preparation.augment(inputs, to_device(those, self._device), part.epoch)
            if len(loaded) > 1:
                yield Pass(prepared, targets, len(those))
            else:
                nests = (split_nest(nest, partial(_align, sizes=sizes)) for nest in (prepared, targets))
                # Targets without a tensor are the same for all passes.
                parts = (parts or [nest] * len(sizes) for parts, nest in zip(nests, (prepared, targets), strict=True))
                yield from (Pass(*cut) for cut in zip(*parts, sizes, strict=True))

    def close(self) -> None:
        """End the stream, and the loader's workers with it."""
        self._stream = iter(())
        self._loader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def eval_batches(
    samples: Samples,
    dataset: DataFormat,
    config: Data,
    world: World,
    memory_format: torch.memory_format = torch.contiguous_format,
    stop: Stop | None = None,
    batch_size: int | None = None,
) -> Iterator[EvalBatch]:
    """Yield the batches of this rank, every `world.size`-th of the split; each sample is in one batch of one rank.

    Args:
        batch_size: `eval.batch_size`.

    Raises (while iterating):
        DataError: a sample cannot be read.
        StopRequested: a stop was requested; also while this rank waited for the loader's workers.
    """
    preparation = open_preparation(dataset.normalize, Noise(), 0, world.device, memory_format)
    size = batch_size or eval_batch_size(dataset, config, world.device)
    mine = range(world.rank * size, len(samples), world.size * size)
    sizes = (min(size, len(samples) - start) for start in mine)
    requests = (Request(torch.arange(start, start + each), 0, [each]) for start, each in zip(mine, sizes, strict=True))
    stop = stop or Stop()
    with _open_loader(samples, requests, dataset, config, world, stop) as loader:
        for start, (loaded,) in zip(mine, loader, strict=True):
            if stop.reason is not None:
                raise StopRequested(stop.reason)
            inputs, targets = map_tensors(partial(to_device, device=world.device), loaded)
            yield EvalBatch(
                inputs=preparation.prepare(inputs),
                targets=targets,
                num_samples=min(size, len(samples) - start),
                number=start // size,
            )


def eval_batch_size(dataset: DataFormat, config: Data, device: torch.device) -> int:
    """Return how many samples are evaluated at once without `eval.batch_size`: as many on any number of ranks."""
    if dataset.normalize is None or dataset.shape is None:  # own data, of any size
        return min(EVAL_BATCH, config.global_batch)
    return count_images(dataset.shape, device)


def count_images(shape: Shape, device: torch.device) -> int:
    """Return how many images are evaluated at once."""
    _, height, width = shape
    return max(EVAL_BATCH, EVAL_PIXELS // (height * width)) if device.type == "cuda" else EVAL_BATCH


def _align(tensor: Tensor, sizes: list[int]) -> Iterable[Tensor]:
    """Split a tensor by shard: views, or copies where a view would not be aligned."""
    parts = torch.split(tensor, sizes)
    each = tensor.element_size() * math.prod(tensor.shape[1:])
    if len(parts) == 1 or all(size * each % ALIGNMENT == 0 for size in set(sizes)):
        return parts
    return map(torch.clone, parts)


def _open_loader(
    samples: Samples,
    requests: Iterable[Request],
    dataset: DataFormat,
    config: Data,
    world: World,
    stop: Stop | None,
    stop_after_seconds: float = 0.0,
) -> SampleLoader:
    workers = config.workers if dataset.loader == "workers" else 0
    pin = world.device.type == "cuda"
    return SampleLoader(samples, requests, workers, pin=pin, stop=stop, stop_after_seconds=stop_after_seconds)
