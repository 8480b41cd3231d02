"""Buffers of a network: running statistics and other tensors that are saved and not trained."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dist_train.distributed.world import World


class BufferSlots:
    """The places of a network's buffers; a forward pass may assign another tensor to one."""

    def __init__(
        self,
        network: nn.Module,
        wanted: Callable[[Tensor], bool] = lambda _: True,
        skipped: Callable[[nn.Module], bool] = lambda _: False,
    ) -> None:
        """
        Args:
            wanted: whether to take a buffer.
            skipped: whether to leave out those of a layer.
        """
        self._slots = [
            (module._buffers, name)
            for module in network.modules()
            if not skipped(module)
            for name, buffer in module._buffers.items()
            if buffer is not None and wanted(buffer)
        ]

    def current(self) -> list[Tensor]:
        """Return the current buffers; a tensor in several places is returned several times."""
        return [buffers[name] for buffers, name in self._slots]  # type: ignore[misc]

    @torch.no_grad()
    def restore(self, values: Sequence[Tensor]) -> None:
        """Copy `values`, in the order of `current`, into the buffers."""
        for buffer, value in zip(self.current(), values, strict=True):
            buffer.copy_(value)


def broadcast_buffers(network: nn.Module, world: World) -> None:
    """Give every rank the buffers of rank 0, before they are evaluated or saved."""
    world.broadcast_(list(network.buffers()))
