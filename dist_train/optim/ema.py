"""Exponential moving average of a network's parameters."""

import copy

import torch
from torch import Tensor, nn

from dist_train.distributed.buffers import BufferSlots


class ParameterAverage:
    """Moving average of a network's parameters, with the network's newest buffers.

    After step t the average is `decay * average + (1 - decay) * parameters` (Polyak and Juditsky 1992; in the form
    with a decay as in Tarvainen and Valpola, arXiv:1703.01780).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self._decay = decay
        self._averages: list[Tensor] = list(self.network.parameters())
        self._parameters: list[Tensor] = list(network.parameters())
        # Statistics and counts: one call copies tensors of one dtype.
        kinds = (Tensor.is_floating_point, lambda buffer: not buffer.is_floating_point())
        self._buffers = [(BufferSlots(self.network, kind), BufferSlots(network, kind)) for kind in kinds]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters of the step that was made last."""
        torch._foreach_lerp_(self._averages, self._parameters, 1 - self._decay)
        for averages, newest in self._buffers:
            if buffers := newest.current():
                torch._foreach_copy_(averages.current(), buffers)
