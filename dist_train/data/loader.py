"""Images of one batch after another, read in this process or ahead of it by worker processes."""

import atexit
import os
import signal
from collections.abc import Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from dist_train.data.samples import Samples
from dist_train.errors import DataError
from dist_train.system.process import die_with_parent


class Reader:
    """An iterator of uint8 [B, C, H, W], one for the positions of each batch; a context manager that ends its workers.

    Raises (while iterating):
        DataError: a image cannot be read; also if a worker found it.
    """

    def __init__(self, samples: Samples, batches: Iterable[Tensor], workers: int, *, pin: bool) -> None:
        """`batches`: positions, int32 or int64 [B]; `pin`: workers' images come in pinned memory."""
        self._workers: Iterator[Tensor | DataError] | None = None
        self._batches: Iterator[Tensor | DataError] = map(samples.images_at, batches)
        if workers:
            self._batches = self._workers = _start(samples, batches, workers, pin=pin)
            # They ignore the SIGTERM with which multiprocessing would end them at exit, and then it waits for them.
            atexit.register(self.close)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Tensor:
        found = next(self._batches)
        if isinstance(found, DataError):
            raise found
        return found

    def close(self) -> None:
        """End the workers, if there are any, and the stream."""
        workers, self._workers, self._batches = self._workers, None, iter(())
        atexit.unregister(self.close)
        if workers is not None:
            _stop(workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Reported(TorchDataset[Any]):
    """Samples whose errors are values: torch would raise them anew with a worker's traceback as their text."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __getitems__(self, positions: list[int]) -> Tensor | DataError:
        try:
            return self._samples.images_at(torch.tensor(positions))
        except DataError as error:
            return error


def _start(samples: Samples, batches: Iterable[Tensor], workers: int, *, pin: bool) -> Iterator[Tensor | DataError]:
    loader: DataLoader[Any] = DataLoader(
        _Reported(samples),
        batch_sampler=(positions.tolist() for positions in batches),  # a tensor would travel as a file
        num_workers=workers,
        collate_fn=_as_is,
        pin_memory=pin,
        worker_init_fn=partial(_enter_worker, os.getpid()),
        # A fork shares the mapped images; anything else would send a copy to each worker.
        multiprocessing_context="fork",
        # Without one of its own, an iterator draws from torch's global generator.
        generator=torch.Generator(),
    )
    return iter(loader)


def _stop(workers: Any) -> None:
    """End workers and threads of a DataLoader's iterator now: its destructor waits for the frames of an error to go."""
    workers._shutdown_workers()
    for queue in workers._index_queues:
        queue._thread.join()


def _as_is(found: Any) -> Any:
    return found


def _enter_worker(rank: int, worker: int) -> None:  # noqa: ARG001
    """Bind a worker's life to that of the process `rank`.

    Signals that reach the whole process group are for the rank: it finishes its step and then ends its workers. If the
    rank is killed they end with it, and let go of the run's lock, which a fork shares.
    """
    die_with_parent(rank)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
