"""The ranks of a run and their collectives.

A process reads its rank from the environment variables that torchrun sets. Without them it is a world of one rank, for
which the same code runs: without a process group, every collective returns its input.
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
    """The rank, world size and device of this process, and the collectives of all ranks."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    backend: str | None = None
    """`nccl` or `gloo`; None in a process without a launcher, which has no process group."""

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the only rank that prints and writes the files of the run."""
        return self.rank == 0

    def __str__(self) -> str:
        return f"{self.rank}({self.size})"

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum `tensor` over all ranks in place (all-reduce); returns it."""
        if self.backend is not None:
            dist.all_reduce(tensor)
        return tensor

    def exchange(self, tensor: Tensor, partner: int) -> Tensor:
        """Swap tensors of one shape and dtype with rank `partner`, which also calls this; returns the partner's."""
        received = torch.empty_like(tensor)
        if self.backend is not None:
            operations = [dist.P2POp(dist.isend, tensor, partner), dist.P2POp(dist.irecv, received, partner)]
            for work in dist.batch_isend_irecv(operations):
                work.wait()
        return received

    def broadcast_(self, tensors: list[Tensor], source: int = 0) -> None:
        """Overwrite `tensors` with those of rank `source`; all ranks have the same shapes and dtypes."""
        if self.backend is not None:
            for tensor in tensors:
                dist.broadcast(tensor, source)

    def broadcast_bytes(self, payload: bytes | None, source: int = 0) -> bytes:
        """Return the `payload` of rank `source` on all ranks; the others pass None. Nothing is unpickled."""
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
        """Wait until every rank has called this."""
        if self.backend is not None:
            dist.barrier(device_ids=[self.device.index] if self.device.type == "cuda" else None)

    @contextmanager
    def agreement(self) -> Iterator[None]:
        """A block after which all ranks continue, or none: if one raises a UserError in it, all of them raise.

        The lowest rank that raised re-raises its own error, every other rank raises RefusedElsewhereError, and the
        process group is closed. The block must not contain a collective: a rank that has raised would be missing.
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
        """Leave the process group, together with all ranks.

        The barrier keeps the connections open until Gloo's threads of every rank are done with them. Do not call this
        after a failure of one rank: the others may be in a collective, and the barrier would wait for them. The process
        has to end by `system.exit.leave`, not by a normal exit of the interpreter.
        """
        if self.backend is not None and dist.is_initialized():
            try:
                self.barrier()
            except RuntimeError:
                return  # a peer has exited: there is no rank left to wait for, and the work of this one is done
            dist.destroy_process_group()


def open_world(config: Distributed, environ: Mapping[str, str] | None = None) -> World:
    """Join the process group that the launcher's variables describe; without them, return a world of one rank.

    Raises:
        WorldError: some variables are missing or contradict each other, or there are fewer devices than local ranks.
    """
    launched = read_launcher_variables(os.environ if environ is None else environ)
    local_rank, local_size = (launched.local_rank, launched.local_size) if launched else (0, 1)
    device = _select_device(config, local_rank, local_size)
    if launched is None:
        return World(device=device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend,
        timeout=timedelta(minutes=config.timeout_minutes),
        device_id=device if device.type == "cuda" else None,
    )
    return World(launched.rank, launched.size, local_rank, local_size, device, backend)


@dataclass(frozen=True)
class LauncherVariables:
    """The ranks and sizes of one process, from the variables that torchrun sets."""

    rank: int
    size: int
    local_rank: int
    local_size: int


def read_launcher_variables(environ: Mapping[str, str]) -> LauncherVariables | None:
    """Read the launcher's variables; None where none of them is set.

    Raises:
        WorldError: only some of them are set, one is not a number, or a rank is not below its size.
    """
    present = [name for name in LAUNCHER_VARIABLES if name in environ]
    missing = [name for name in LAUNCHER_VARIABLES if name not in environ]
    if not present:
        return None
    if missing:
        raise WorldError(
            f"environment: {', '.join(present)} set, but {', '.join(missing)} not. Start with torchrun, which sets all "
            f"of {', '.join(LAUNCHER_VARIABLES)}, or unset them to run one process."
        )
    rank, size, local_rank, local_size, port = (
        _parse_number(environ, name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
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
    """Whether torchrun would restart these ranks with a store that still has the entries of lost ranks.

    The new ranks then try to connect to the lost ones: with torch 2.15, in about every second restart of two ranks.
    """
    return (
        int(environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) > 0
        and environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        and environ.get("TORCH_DISABLE_SHARE_RDZV_TCP_STORE") != "1"
    )


def _parse_number(environ: Mapping[str, str], name: str) -> int:
    text = environ[name]
    if not text.isdecimal():
        raise WorldError(f"environment: {name} is {text!r}; it must be a number from 0 up")
    return int(text)


def _select_device(config: Distributed, local_rank: int, local_size: int) -> torch.device:
    """Return the GPU of this rank; the CPU where there is none or `distributed.backend` is gloo."""
    count = torch.cuda.device_count() if config.backend != "gloo" and torch.cuda.is_available() else 0
    if count == 0:
        if config.backend == "nccl":
            raise WorldError("distributed.backend is nccl, but torch finds no GPU here; use auto or gloo")
        return torch.device("cpu")
    if local_size > count:  # the same on every rank, so that none waits for one that has refused
        raise WorldError(
            f"{local_size} ranks were started on a machine with {count} GPU(s). Start one rank per GPU "
            f"(--nproc_per_node={count}), or train on CPU with distributed.backend=gloo"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
