"""What the program chooses where a setting says `auto`, once a run.

A checkpoint keeps the choices and a resumed run takes them over: another precision, memory format or number of threads
sums in another order, and the run would no longer end with the same bits.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dist_train.config import Distributed, Train
from dist_train.errors import CheckpointError
from dist_train.world import World, cores


@dataclass(frozen=True)
class Choices:
    """The settings `train.precision`, `train.channels_last`, `distributed.threads` and `distributed.shared_memory` with
    every `auto` decided."""

    precision: str
    channels_last: bool
    threads: int
    local_size: int
    """Ranks on a machine, for which `threads` and `shared_memory` were chosen."""
    shared_memory: bool = False
    """Checkpoints of before there was such a choice have none: their gradients went through the backend."""

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """The type of the arithmetic inside autocast, None where there is no autocast."""
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def choose(
    train: Train,
    distributed: Distributed,
    world: World,
    network: nn.Module,
    stored: dict[str, Any] | None,
    shards: int | None = None,
    can_share: bool = False,
) -> Choices:
    """Decide every `auto`; what `stored`, the choices of the checkpoint, has decided stays decided.

    Threads are decided anew only where the number of ranks on a machine has changed: the old number would then leave
    cores idle or fight over them, and another number of ranks sums in another order anyway. With `shards` it does not,
    and one thread is all that every number of ranks can have. Shared memory is decided upon in the same way, and with
    `shards` it changes no bits.

    Args:
        can_share: whether the ranks have memory that they share.

    Raises:
        CheckpointError: another precision is asked for than the checkpoint was trained in.
    """
    before = Choices(**stored) if stored else None
    precision: str = train.precision
    if precision == "auto":
        precision = before.precision if before else ("bf16" if _made_for_bf16(world.device) else "fp32")
    if before and before.precision != precision:
        raise CheckpointError(
            f"train.precision is {precision}, but the checkpoint was trained in {before.precision}. Set it back, or "
            "start anew with run.resume=never."
        )
    channels_last = train.channels_last == "on"
    if train.channels_last == "auto":
        channels_last = before.channels_last if before else _gains_by_channels_last(network, precision, world)
    if distributed.threads != "auto":
        threads = distributed.threads
    elif before and (shards or before.local_size == world.local_size):
        threads = before.threads
    elif shards:
        threads = 1
    else:
        threads = max(1, cores() // world.local_size)
    shared_memory = can_share
    if before and before.local_size == world.local_size and not shards:
        shared_memory = can_share and before.shared_memory
    return Choices(precision, channels_last, threads, world.local_size, shared_memory)


def apply_to_process(choices: Choices, deterministic: bool, device: torch.device) -> None:
    """Set what torch keeps per process."""
    torch.set_num_threads(choices.threads)
    if device.type == "cuda":
        # fp32 means fp32: torch would let cuDNN's convolutions drop 13 bits of the mantissa.
        torch.backends.cudnn.allow_tf32 = False
    if deterministic:
        if device.type == "cuda":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is refused in this mode without it
        torch.use_deterministic_algorithms(True)


def _made_for_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    return "amx_bf16" in flags or "avx512_bf16" in flags


def _gains_by_channels_last(network: nn.Module, precision: str, world: World) -> bool:
    """oneDNN's convolutions gain by it in every precision, cuDNN's where tensor cores do the work."""
    if not any(isinstance(layer, nn.Conv2d) for layer in network.modules()):
        return False
    return world.device.type == "cpu" or precision != "fp32"
