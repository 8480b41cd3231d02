"""Convolutions of inputs that are smaller than the kernel, in fp32 where bf16 is wrong.

On CPUs with instructions for bf16, oneDNN leaves parts of the gradient of such a kernel unwritten: what was in that
memory trains the network. Seen with torch 2.15 in one to three dimensions, also transposed; never in fp32, and never
where the input is at least as large as the kernel.
"""

from typing import Any

import torch
from torch import Tensor, nn


def protect_small_convolutions(network: nn.Module) -> None:
    """Swap each convolution of a network, in place, for one that computes in fp32 where bf16 is wrong on a CPU.

    Parameters, state_dict, hooks and `print(network)` stay the same; subclasses of torch's layers are left alone.
    """
    for layer in network.modules():
        if swapped := _SWAPPED.get(type(layer)):
            layer.__class__ = swapped


class _Protected(nn.Module):
    """Comes before one of torch's convolutions."""

    def forward(self, inputs: Tensor, *arguments: Any) -> Tensor:
        """Return what the convolution returns, in the type of autocast."""
        if not self._is_wrong(inputs):
            return super().forward(inputs, *arguments)  # type: ignore[no-any-return]
        with torch.autocast("cpu", enabled=False):
            return super().forward(inputs.float(), *arguments).to(torch.bfloat16)  # type: ignore[no-any-return]

    def _is_wrong(self, inputs: Tensor) -> bool:
        """Whether this is computed in bf16 on a CPU, and the kernel is larger than the input in some dimension."""
        if inputs.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return False
        if torch.get_autocast_dtype("cpu") != torch.bfloat16:
            return False
        extents = [step * (size - 1) + 1 for step, size in zip(self.dilation, self.kernel_size, strict=True)]  # type: ignore[arg-type]
        return any(side < extent for side, extent in zip(inputs.shape[-len(extents) :], extents, strict=True))

    def _get_name(self) -> str:
        return _NAMES[type(self)]


class _Conv1d(_Protected, nn.Conv1d): ...


class _Conv2d(_Protected, nn.Conv2d): ...


class _Conv3d(_Protected, nn.Conv3d): ...


class _ConvTranspose1d(_Protected, nn.ConvTranspose1d): ...


class _ConvTranspose2d(_Protected, nn.ConvTranspose2d): ...


class _ConvTranspose3d(_Protected, nn.ConvTranspose3d): ...


_SWAPPED: dict[type, type] = {
    swapped.__bases__[1]: swapped
    for swapped in (_Conv1d, _Conv2d, _Conv3d, _ConvTranspose1d, _ConvTranspose2d, _ConvTranspose3d)
}
_NAMES = {swapped: layer.__name__ for layer, swapped in _SWAPPED.items()}
