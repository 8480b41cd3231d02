"""The samples of each batch, read in this process or ahead of it by worker processes."""

import atexit
import gc
import os
import shutil
import signal
import time
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from dist_train.data.own.seeding import never_restore_generators
from dist_train.data.samples import Samples
from dist_train.errors import ConfigError, DataError, OwnCodeError
from dist_train.nest import Nest
from dist_train.system.process import die_with_parent
from dist_train.system.stop_signals import SIGNALS, Stop, StopRequested

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (torch's workers write there)
_PREFETCHED = 2  # batches that each worker has under way
POLL_SECONDS = 0.1
"""How often a wait for a worker looks at the stop flag."""

Loaded = list[Nest] | DataError | OwnCodeError


class Request(NamedTuple):
    """Samples that are read together."""

    positions: Tensor
    """int64 [B]."""
    epoch: int
    sizes: list[int]
    """Samples in each of the passes that get them."""


class SampleLoader:
    """An iterator of what `Samples.read` returns for each request; a context manager that ends its workers.

    Raises (while iterating):
        DataError, OwnCodeError: a sample cannot be read; also if a worker found it.
        StopRequested: a stop was requested, and the workers have delivered nothing for `stop_after_seconds` since.
    """

    def __init__(
        self,
        samples: Samples,
        requests: Iterable[Request],
        workers: int,
        *,
        pin: bool,
        stop: Stop | None = None,
        stop_after_seconds: float = 0.0,
    ) -> None:
        """`pin`: what workers read comes in pinned memory."""
        self._stop = stop or Stop()
        self._stop_after_seconds = stop_after_seconds
        self._workers: Iterator[Loaded] | None = None
        self._batches: Iterator[Loaded] = (samples.read(*request) for request in requests)
        if workers:
            rest = iter(requests)
            first = list(islice(rest, 1))
            _check_shared_memory(samples, max((len(request.positions) for request in first), default=0), workers)
            requests = chain(first, rest)
            self._batches = self._workers = _start_workers(samples, requests, workers, pin=pin)
            # They ignore the SIGTERM with which multiprocessing would end them at exit, and then it waits for them.
            atexit.register(self.close)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> list[Nest]:
        found = next(self._batches) if self._workers is None else self._wait_for_workers()
        if isinstance(found, DataError | OwnCodeError):
            raise found
        return found

    def close(self) -> None:
        """End the workers, if there are any, and the stream."""
        workers, self._workers, self._batches = self._workers, None, iter(())
        atexit.unregister(self.close)
        if workers is not None:
            _stop_workers(workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait_for_workers(self) -> Loaded:
        """The next batch; the wait ends `stop_after_seconds` after a poll has seen that a stop is requested."""
        seen: float | None = None
        while True:
            try:
                return next(self._batches)
            except RuntimeError as error:
                if not str(error).startswith("DataLoader timed out after"):
                    raise
            if self._stop.reason is not None:
                seen = seen or time.monotonic()
                if time.monotonic() - seen >= self._stop_after_seconds:
                    raise StopRequested(self._stop.reason)


class _SamplesDataset(TorchDataset[Any]):
    """Samples for torch's DataLoader, with errors as values: torch would raise them with a worker's traceback."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __getitems__(self, request: tuple[list[int], int, list[int]]) -> Loaded:
        positions, epoch, sizes = request
        try:
            return self._samples.read(torch.tensor(positions), epoch, sizes)
        except (DataError, OwnCodeError) as error:
            return error


def _check_shared_memory(samples: Samples, batch: int, workers: int) -> None:
    """Check that /dev/shm has room for what the workers have under way, as torch has no error for it: it waits.

    Raises:
        ConfigError: it has not, as in a container that was given 64 MB.
    """
    needed = (_PREFETCHED * workers + 1) * batch * samples.source.sample_bytes
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:  # the system has another place for it
        return
    if free < needed:
        raise ConfigError(
            f"data.workers={workers}: they need {needed / 1e6:.1f} MB of shared memory for their samples, and "
            f"{SHARED_MEMORY} has {free / 1e6:.1f} MB free. Give it more (docker run --shm-size 8g ...), or set "
            "data.workers=0 or a smaller data.global_batch"
        )


def _start_workers(samples: Samples, requests: Iterable[Request], workers: int, *, pin: bool) -> Iterator[Loaded]:
    loader: DataLoader[Any] = DataLoader(
        _SamplesDataset(samples),
        # A tensor would travel as a file.
        batch_sampler=(request._replace(positions=request.positions.tolist()) for request in requests),  # type: ignore
        num_workers=workers,
        prefetch_factor=_PREFETCHED,
        collate_fn=_keep,
        pin_memory=pin,
        timeout=POLL_SECONDS,  # `next` raises RuntimeError then, and may be called again
        worker_init_fn=partial(_enter_worker, os.getpid()),
        # A fork shares the mapped images; anything else would send a copy to each worker.
        multiprocessing_context="fork",
        # Without one of its own, an iterator draws from torch's global generator.
        generator=torch.Generator(),
    )
    # A group may get SIGTERM before a worker ignores it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _stop_workers(workers: Any) -> None:
    """End the workers and threads of a DataLoader's iterator now, not when the frames of an error are released."""
    workers._shutdown_workers()
    for queue in workers._index_queues:
        queue._thread.join()
    for worker in workers._workers:  # torch has waited 5 seconds for each
        if worker.is_alive():
            worker.kill()
            worker.join()


def _keep(found: Any) -> Any:
    return found


def _enter_worker(rank: int, worker: int) -> None:  # noqa: ARG001
    """Let a worker end with the process `rank`, and not by signals to the whole process group.

    A rank that is signalled finishes its step and then ends its workers. If the rank is killed they end with it, and
    release the run's lock, which a fork shares.
    """
    die_with_parent(rank)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    never_restore_generators()
    gc.freeze()  # what the rank has made is never garbage here, and a collection would copy its pages
