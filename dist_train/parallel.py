"""Network -> what is called in a training step of this world."""

from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dist_train.config import Train
from dist_train.errors import ConfigError
from dist_train.world import World

# torch 2.15 has renamed the argument, and warns of the name that older ones know.
_SYNC_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in signature(DistributedDataParallel).parameters
)


def place_model(network: nn.Module, train: Train, memory_format: torch.memory_format, world: World) -> nn.Module:
    """Move the network to this rank's device and format, with batch normalisation over all ranks if it is wanted.

    Raises:
        ConfigError: `train.sync_batchnorm` on a CPU.
    """
    if train.sync_batchnorm and world.device.type != "cuda":
        raise ConfigError("train.sync_batchnorm is on, but torch has it for GPUs only, and this rank is on the CPU")
    if train.sync_batchnorm:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    # .to(memory_format=...) is missing from the stubs of nn.Module.to with a device.
    return network.to(device=world.device, memory_format=memory_format)  # type: ignore[call-overload, no-any-return]


def parallelize(network: nn.Module, world: World) -> nn.Module:
    """Wrap the network so that a backward pass leaves the mean over ranks in the gradients.

    Buffers are not sent at each forward pass: only rank 0's are ever used, and `share_buffers` sends those where they
    are read. So batch normalisation is DDP's (statistics of a rank's own share, running statistics of rank 0) at no
    cost a step.
    """
    if world.backend is None:
        return network
    options: dict[str, Any] = {_SYNC_BUFFERS: False, "gradient_as_bucket_view": True}
    if world.device.type == "cuda":
        options["device_ids"] = [world.device.index]
    return DistributedDataParallel(network, **options)


def settle_buckets(model: nn.Module, network: nn.Module, pictures: Tensor) -> None:
    """Let DDP sort its buckets before the first step, by a pass whose effects are undone.

    DDP sorts them after its first backward pass, by the order in which gradients became ready. With three or more
    ranks the order of a sum changes its bits, so the first step after a resume would differ from the same step of an
    undisturbed run. With a pass before the first step of every start, both have sorted buckets.
    """
    if not isinstance(model, DistributedDataParallel):
        return
    buffers = [buffer.clone() for buffer in network.buffers()]
    for _ in range(2):  # the sorting happens at the start of the second
        model(pictures).sum().backward()
    for buffer, before in zip(network.buffers(), buffers, strict=True):
        buffer.copy_(before)
    for weight in network.parameters():
        weight.grad = None


def share_buffers(network: nn.Module, world: World) -> None:
    """Give every rank the buffers of rank 0: before they are evaluated or saved."""
    world.broadcast_(list(network.buffers()))
