"""The GPU of a rank, and NCCL's settings; all of this before the process group opens."""

from collections.abc import MutableMapping
from typing import Any

import torch

from dist_train.errors import WorldError

_DETERMINISTIC_NCCL = {"NCCL_NVLS_ENABLE": "0", "NCCL_ALGO": "Ring", "NCCL_PROTO": "Simple"}
"""Sums by the switches of NVLink have another order at each call, and NCCL chooses between its other algorithms and
protocols by timings of the machine. A ring is the one algorithm that has all collectives."""


def select_gpu(count: int, local_rank: int, local_size: int) -> torch.device:
    """Return the GPU of a rank that sees `count` of them.

    Slurm's `--gpus-per-task`, for one, shows each rank its own GPU alone, as number 0.

    Raises:
        WorldError: there are fewer GPUs than ranks on this machine.
    """
    if 1 < count < local_size:  # the same on every rank, so that none waits for one that has refused
        raise WorldError(_too_few(f"{local_size} ranks were started on a machine with {count} GPUs", count))
    return torch.device("cuda", local_rank if count > 1 else 0)


def check_own_gpu(store: Any, device: torch.device, rank: int, size: int) -> None:
    """Check that no two ranks have one GPU; every rank calls this. Two would wait for each other in NCCL.

    Args:
        store: of torch.distributed, which all ranks share.

    Raises:
        WorldError: on every rank, if two have.
    """
    store.set(f"gpu/{rank}", str(torch.cuda.get_device_properties(device).uuid))
    owners: dict[bytes, int] = {}
    for other, gpu in enumerate(store.multi_get([f"gpu/{number}" for number in range(size)])):
        if (first := owners.setdefault(gpu, other)) != other:
            raise WorldError(_too_few(f"rank {first} and rank {other} have the same GPU", 1))


def pin_nccl(environ: MutableMapping[str, str]) -> dict[str, str]:
    """Let NCCL add up in the same order at each call and each start; a ring or a tree that the user has set stays.

    Returns:
        The variables that decide the order; they must be equal on all ranks.

    Raises:
        WorldError: a variable asks for sums that have no fixed order.
    """
    for name, value in _DETERMINISTIC_NCCL.items():
        given = environ.setdefault(name, value).lower()
        is_excluded = given.startswith("^")
        if (name == "NCCL_NVLS_ENABLE" and given != "0") or ("nvls" in given and not is_excluded):
            raise WorldError(
                f"environment: {name} is {environ[name]}, with which NCCL's sums have no fixed order, and the settings "
                f"ask for deterministic kernels (run.deterministic or run.reproducible); unset it, or set it to {value}"
            )
    return {name: environ[name] for name in _DETERMINISTIC_NCCL}


def _too_few(fault: str, count: int) -> str:
    return (
        f"{fault}. Start one rank per GPU (torchrun --nproc-per-node={count}, or Slurm's --gpus-per-task=1), or train "
        "on CPU with distributed.backend=gloo"
    )
