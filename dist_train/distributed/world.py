"""The ranks of a run and their collectives.

A process reads its rank from the environment variables that torchrun sets. Without them it is a world of one rank, for
which the same code runs: without a process group, every collective returns its input.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dist_train.distributed.gpu import check_own_gpu, pin_nccl, select_gpu
from dist_train.distributed.launcher import read_launcher_variables
from dist_train.distributed.rendezvous import Rendezvous, open_rendezvous
from dist_train.errors import RefusedElsewhereError, UserError, WorldError
from dist_train.settings.schema import Distributed

_BROADCAST_BYTES = 2**28
"""Bytes of tensors that are broadcast in one message."""


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
    rendezvous: Rendezvous | None = None
    """Where the ranks of several processes have met."""

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
        if self.backend is not None and tensors:
            broadcast: Any = dist._broadcast_coalesced  # type: ignore[attr-defined]
            broadcast(dist.group.WORLD, tensors, _BROADCAST_BYTES, source)

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

    def check_equal(self, topic: str, about: Mapping[str, Any]) -> None:
        """Check that all ranks give the same `about`; see `Rendezvous.check_equal`.

        Raises:
            UserError: on every rank, if one differs. The process group is closed then.
        """
        if self.rendezvous is not None:
            try:
                self.rendezvous.check_equal(topic, about)
            except UserError:
                self.close()
                raise

    def barrier(self) -> None:
        """Wait until every rank has called this."""
        if self.backend is not None:
            dist.barrier(device_ids=[self.device.index] if self.backend == "nccl" else None)

    @contextmanager
    def agreement(self) -> Iterator[None]:
        """A block after which all ranks continue, or none: if one raises an exception in it, all of them raise.

        The lowest rank that raised re-raises its own error, every other rank raises RefusedElsewhereError, and the
        process group is closed. The block must not contain a collective: a rank that has raised would be missing.
        """
        failure: Exception | None = None
        first = torch.tensor([self.size], device=self.device)  # before the block, which may use up a GPU's memory
        try:
            yield
        except Exception as error:
            failure = error
        if self.backend is not None:
            if failure is not None:
                first.fill_(self.rank)
            dist.all_reduce(first, dist.ReduceOp.MIN)
            if int(first) < self.size:
                self.close()
            if int(first) < self.size and int(first) != self.rank:
                raise RefusedElsewhereError(f"rank {int(first)}({self.size}) has failed")
        if failure is not None:
            raise failure

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


def open_world(
    config: Distributed,
    environ: Mapping[str, str] | None = None,
    about: Mapping[str, Any] | None = None,
    *,
    deterministic: bool = False,
) -> World:
    """Join the process group that the launcher's variables describe; without them, return a world of one rank.

    Args:
        about: what has to be equal on all ranks, by name; they compare it before they open the group.
        deterministic: whether sums over GPUs must have a fixed order.

    Raises:
        WorldError: some variables are missing or contradict each other, there are fewer devices than local ranks, other
            ranks do not come, or were started in another way.
    """
    environ = os.environ if environ is None else environ
    launched = read_launcher_variables(environ)
    local_rank, local_size = (launched.local_rank, launched.local_size) if launched else (0, 1)
    device = _select_device(config, local_rank, local_size)
    if launched is None:
        return World(device=device)
    if launched.size == launched.local_size:
        _use_loopback()
    backend = "nccl" if device.type == "cuda" else "gloo"
    timeout = timedelta(minutes=config.timeout_minutes)
    rendezvous = open_rendezvous(launched, environ, timeout.total_seconds())
    pinned = pin_nccl(os.environ) if backend == "nccl" and deterministic else {}
    rendezvous.check_equal("settings", {**(about or {}), "WORLD_SIZE": launched.size, "backend": backend, **pinned})
    if backend == "nccl":
        check_own_gpu(rendezvous.store, device, launched.rank, launched.size)
    dist.init_process_group(
        backend,
        timeout=timeout,
        store=rendezvous.store,
        rank=launched.rank,
        world_size=launched.size,
        device_id=device if device.type == "cuda" else None,
    )
    return World(launched.rank, launched.size, local_rank, local_size, device, backend, rendezvous)


def _use_loopback() -> None:
    """Let the ranks of one machine communicate through the loopback interface, which no other machine reaches."""
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, "lo")


def _select_device(config: Distributed, local_rank: int, local_size: int) -> torch.device:
    """Return the GPU of this rank; the CPU where there is none or `distributed.backend` is gloo."""
    count = torch.cuda.device_count() if config.backend != "gloo" and torch.cuda.is_available() else 0
    if count == 0:
        if config.backend == "nccl":
            raise WorldError("distributed.backend is nccl, but torch finds no GPU here; use auto or gloo")
        return torch.device("cpu")
    device = select_gpu(count, local_rank, local_size)
    torch.cuda.set_device(device)
    return device
