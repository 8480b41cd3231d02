"""The ranks of a run, and what they do together.

A process learns who it is from the variables that torchrun sets. Without them it is a world of one, on which the same
code runs: every collective of a `World` without a process group returns what it was given.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from dist_train.errors import RefusedElsewhereError, UserError, WorldError
from dist_train.settings.schema import Distributed

LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class World:
    """Who this process is among the ranks of the run, and the collectives between them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    backend: str | None = None
    """`nccl`, `gloo`, or None where the process was started without a launcher and has no process group."""

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the only one that prints and writes the run's files."""
        return self.rank == 0

    def __str__(self) -> str:
        return f"{self.rank}({self.size})"

    def sum_(self, tensor: Tensor) -> Tensor:
        """Add `tensor` over all ranks, in place; returns it."""
        if self.backend is not None:
            dist.all_reduce(tensor)
        return tensor

    def exchange(self, tensor: Tensor, partner: int) -> Tensor:
        """Send `tensor` to rank `partner`, which calls this with its own at the same time; returns the partner's."""
        received = torch.empty_like(tensor)
        if self.backend is not None:
            both = [dist.P2POp(dist.isend, tensor, partner), dist.P2POp(dist.irecv, received, partner)]
            for work in dist.batch_isend_irecv(both):
                work.wait()
        return received

    def broadcast_(self, tensors: list[Tensor], source: int = 0) -> None:
        """Overwrite `tensors` with those of rank `source`; shapes and dtypes are the same on all ranks."""
        if self.backend is not None:
            for tensor in tensors:
                dist.broadcast(tensor, source)

    def broadcast_bytes(self, payload: bytes | None, source: int = 0) -> bytes:
        """Send `payload` of rank `source` to all; the other ranks pass None. Bytes, so that nobody unpickles."""
        if self.backend is None:
            return payload or b""
        length = torch.tensor([len(payload or b"")], dtype=torch.int64, device=self.device)
        dist.broadcast(length, source)
        if self.rank == source:
            buffer = torch.frombuffer(bytearray(payload or b"\0"), dtype=torch.uint8).to(self.device)
        else:
            buffer = torch.empty(max(int(length), 1), dtype=torch.uint8, device=self.device)
        dist.broadcast(buffer, source)
        return buffer.cpu().numpy().tobytes()[: int(length)]

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.backend is not None:
            dist.barrier(device_ids=[self.device.index] if self.device.type == "cuda" else None)

    @contextmanager
    def agreement(self) -> Iterator[None]:
        """A part of the start that may refuse: if a rank raises a UserError in it, no rank goes on.

        The first of the ranks that refused raises its own error, every other RefusedElsewhereError, and the process
        group is closed. The body must not contain a collective: a rank that has refused would be missing in it.
        """
        refusal: UserError | None = None
        try:
            yield
        except UserError as error:
            refusal = error
        if self.backend is not None:
            first = torch.tensor([self.size if refusal is None else self.rank], device=self.device)
            dist.all_reduce(first, dist.ReduceOp.MIN)
            if int(first) < self.size:
                self.close()
            if int(first) < self.size and int(first) != self.rank:
                raise RefusedElsewhereError(f"rank {int(first)}({self.size}) refused")
        if refusal is not None:
            raise refusal

    def close(self) -> None:
        """Leave the process group together.

        The barrier keeps a peer's connection from going away while Gloo's threads still use it. Never call this after
        a failure of one rank: the others may be in a collective, and leaving would wait for them. The process then has
        to end by `entry.leave`, not by the interpreter's own way out.
        """
        if self.backend is not None and dist.is_initialized():
            try:
                self.barrier()
            except RuntimeError:
                return  # a peer has gone: nobody is left to wait for, and this rank's work is done
            dist.destroy_process_group()


def open_world(config: Distributed, environ: Mapping[str, str] | None = None) -> World:
    """Join the process group that the variables of the launcher describe, or be a world of one without them.

    Raises:
        WorldError: variables half set or contradicting each other, or fewer devices than local ranks.
    """
    place = read_launcher_variables(os.environ if environ is None else environ)
    local_rank, local_size = (place.local_rank, place.local_size) if place else (0, 1)
    device = _device(config, local_rank, local_size)
    if place is None:
        return World(device=device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend,
        timeout=timedelta(minutes=config.timeout_minutes),
        device_id=device if device.type == "cuda" else None,
    )
    return World(place.rank, place.size, local_rank, local_size, device, backend)


@dataclass(frozen=True)
class LauncherVariables:
    """What the launcher's variables say of one process."""

    rank: int
    size: int
    local_rank: int
    local_size: int


def read_launcher_variables(environ: Mapping[str, str]) -> LauncherVariables | None:
    """The place that the variables give this process, None where none of them is set.

    Raises:
        WorldError: some are set and others are not, or they are no numbers, or a rank is not below its size.
    """
    there = [name for name in LAUNCHER_VARIABLES if name in environ]
    missing = [name for name in LAUNCHER_VARIABLES if name not in environ]
    if not there:
        return None
    if missing:
        raise WorldError(
            f"environment: {', '.join(there)} set, but {', '.join(missing)} not. Start with torchrun, which sets all "
            f"of {', '.join(LAUNCHER_VARIABLES)}, or unset them to run one process."
        )
    rank, size, local_rank, local_size, port = (
        _number(environ, name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
    )
    for low, high in (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE")):
        if int(environ[low]) >= int(environ[high]):
            raise WorldError(f"environment: {low} is {environ[low]} and {high} is {environ[high]}; it must be below")
    if local_size > size:
        raise WorldError(
            f"environment: LOCAL_WORLD_SIZE is {local_size} and WORLD_SIZE is {size}; it must not be above"
        )
    if not 0 < port < 2**16:
        raise WorldError(f"environment: MASTER_PORT is {port}; it must be from 1 to 65535")
    return LauncherVariables(rank, size, local_rank, local_size)


def restart_may_hang(environ: Mapping[str, str]) -> bool:
    """Whether torchrun is going to start these ranks anew with a store that holds what dead ranks have left in it.

    New ranks then connect to old ones: seen with torch 2.15, in about every second restart of two ranks.
    """
    return (
        int(environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) > 0
        and environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        and environ.get("TORCH_DISABLE_SHARE_RDZV_TCP_STORE") != "1"
    )


def count_cores() -> int:
    """Number of cores that this process may use, of which a scheduler may give it fewer (`DIST_TRAIN_CORES`)."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = os.environ.get("DIST_TRAIN_CORES", "")
    return min(there, int(given)) if given.isdecimal() and int(given) else there


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ[name]
    if not text.isdecimal():
        raise WorldError(f"environment: {name} is {text!r}; it must be a number from 0 up")
    return int(text)


def _device(config: Distributed, local_rank: int, local_size: int) -> torch.device:
    """The GPU of this rank, or the CPU where there is none or `distributed.backend` is gloo."""
    count = torch.cuda.device_count() if config.backend != "gloo" and torch.cuda.is_available() else 0
    if count == 0:
        if config.backend == "nccl":
            raise WorldError("distributed.backend is nccl, but torch finds no GPU here; use auto or gloo")
        return torch.device("cpu")
    if local_size > count:  # on every rank alike, so that none waits for one that has refused
        raise WorldError(
            f"{local_size} ranks were started on a machine with {count} GPU(s): start one rank per GPU "
            f"(--nproc_per_node={count}), or train on CPU with distributed.backend=gloo"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
