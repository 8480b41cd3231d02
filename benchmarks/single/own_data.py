"""How fast the user's data set is read: here, and by a plain loop over torch's DataLoader.

    python -m benchmarks.single.own_data [--rounds 5] [--batches 1500] [--batch 64]

Prints a table in Markdown. Both read the same class, in turns, from the first batch of new workers to the end of the
last one. A ratio is the median of those of single rounds, above 1 where ours is faster. That of the CPU time counts the
process and its workers; other programs disturb it less.
"""

import argparse
import gc
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from benchmarks.tables import number, table
from dist_train.data import TrainBatches, open_dataset
from dist_train.distributed.world import World
from dist_train.settings.schema import OwnData

SIZE, SHAPE, CLASSES = 20_000, (3, 8, 8), 10


class Tensors(Dataset[tuple[Tensor, Tensor]]):
    """Samples that are rows of tensors."""

    def __init__(self, split: str) -> None:
        generator = torch.Generator().manual_seed(int(split == "test"))
        self.inputs = torch.randn(SIZE, *SHAPE, generator=generator)
        self.targets = torch.randint(CLASSES, (SIZE,), generator=generator)

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.targets[index]


class Noisy(Tensors):
    """Samples with noise that is drawn when they are read."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, target = super().__getitem__(index)
        return inputs + torch.randn(SHAPE), target


def resident(split: str) -> TensorDataset:
    """A data set that is held in memory."""
    whole = Tensors(split)
    return TensorDataset(whole.inputs, whole.targets)


CASES = ((Tensors, 2), (Noisy, 2), (Tensors, 0), (Noisy, 0), (resident, 0))
"""A data set, and loader workers."""


class Reading(NamedTuple):
    """What reading took."""

    rate: float
    """Samples per second, with the workers running."""
    cpu: float
    """Microseconds of CPU time for a sample, of the process and its workers, their start included."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each, in turns")
    parser.add_argument("--batches", type=int, default=1500, help="batches in a measurement")
    parser.add_argument("--batch", type=int, default=64, help="samples in a batch")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    gc.freeze()  # as a training does with what it has imported
    columns = ["data set, workers", "DataLoader, samples/s", "ours, samples/s", "ratio", "ratio of CPU time"]
    rows = [_measure(make, workers, options) for make, workers in CASES]
    print(table(columns, rows))


def _measure(make: Callable[[str], Dataset[Any]], workers: int, options: argparse.Namespace) -> list[str]:
    config = OwnData.model_validate(
        {"name": f"benchmarks.single.own_data:{make.__name__}", "global_batch": options.batch, "workers": workers}
    )
    dataset = make("train")
    found: list[tuple[Reading, Reading]] = []
    for _ in range(options.rounds):
        theirs = _read(lambda: _stream_theirs(dataset, workers, options.batches, options.batch), options.batch)
        found.append((theirs, _read(lambda: _stream_ours(config, options.batches), options.batch)))
    rates = [number(statistics.median(pair[who].rate for pair in found)) for who in (0, 1)]
    ratio = statistics.median(ours.rate / theirs.rate for theirs, ours in found)
    of_cpu = statistics.median(theirs.cpu / ours.cpu for theirs, ours in found)
    return [f"`{make.__name__}`, {workers}", *rates, f"{ratio:.2f}", f"{of_cpu:.2f}"]


def _read(open_stream: Callable[[], Iterator[Any]], batch: int) -> Reading:
    cpu = _count_cpu_seconds()
    with closing(open_stream()) as stream:  # type: ignore[type-var]
        next(stream)
        start = time.perf_counter()
        batches = sum(1 for _ in stream)
        seconds = time.perf_counter() - start
    return Reading(batches * batch / seconds, (_count_cpu_seconds() - cpu) / (batches * batch) * 1e6)


def _stream_ours(config: OwnData, batches: int) -> Iterator[Any]:
    dataset = open_dataset(config.model_copy(update={"drop_last": True}), 0, World())
    with TrainBatches(dataset, config, 0, World(), 0, batches) as stream:
        yield from stream


def _stream_theirs(dataset: Dataset[Any], workers: int, batches: int, batch: int) -> Iterator[Any]:
    loader = DataLoader(
        dataset, batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0, drop_last=True
    )
    left = batches
    while left > 0:
        for each in loader:
            yield each
            left -= 1
            if not left:
                break


def _count_cpu_seconds() -> float:
    """CPU time of the process and of its children that have ended."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


if __name__ == "__main__":
    main()
