"""Fully connected layers, as lessons write them with `nn.Sequential`: Linear, activation, Linear, ..."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
}


class MLP(nn.Sequential):
    """Map inputs [N, ...] of numbers to [N, outputs]; the first input decides how many numbers a sample has."""

    def __init__(self, outputs: int, hidden: Sequence[int], activation: str, dropout: float = 0.0) -> None:
        """
        Args:
            outputs: numbers that are returned for a sample.
            hidden: units of each hidden layer.
            activation: what follows a hidden layer, a name in `ACTIVATIONS`.
            dropout: probability that an output of a hidden layer is dropped in training.
        """
        layers: list[nn.Module] = []
        for units in hidden:
            layers += [nn.LazyLinear(units), ACTIVATIONS[activation]()]
            layers += [nn.Dropout(dropout)] if dropout else []
        super().__init__(*layers, nn.LazyLinear(outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = inputs.flatten(1) if inputs.dim() > 1 else inputs.unsqueeze(1)
        if not inputs.is_floating_point():
            inputs = inputs.to(torch.get_default_dtype())
        return super().forward(inputs)  # type: ignore[no-any-return, no-untyped-call]
