"""Deterministic kernels (`run.deterministic`), and networks for which torch has none."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from dist_train.errors import ConfigError
from dist_train.execution.lazy_dynamo import backward

_REFUSAL = " does not have a deterministic implementation"
"""The text after the name of the operation in torch's error."""


def use_deterministic_kernels() -> None:
    """Let torch use deterministic kernels only, in this process."""
    torch.use_deterministic_algorithms(True)
    # A kernel that reads memory before it is written is a fault that tests find; filling it costs a kernel each time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def check_deterministic(
    network: nn.Module, try_samples: Callable[[nn.Module], Tensor], autocast: AbstractContextManager[Any]
) -> None:
    """Try one forward and backward pass, on a copy of the network, in deterministic mode.

    torch raises an error where it has no deterministic kernel, which depends on its version, the device and the
    arguments: adaptive pooling to a single pixel has one on a GPU, to 6x6 pixels it has none.

    Args:
        try_samples: calls a network with some samples and returns their loss, [].

    Raises:
        ConfigError: torch has no such kernel for an operation of the network.
    """
    trial = copy.deepcopy(network).train()
    for layer in trial.modules():
        if isinstance(layer, nn.SyncBatchNorm):
            layer.eval()  # it would wait for the other ranks
    weight = next(network.parameters())
    try:
        with autocast:
            loss = try_samples(trial)
        backward(loss, torch.ones_like(loss))
    except RuntimeError as error:
        operation, is_refusal, _ = str(error).partition(_REFUSAL)
        if not is_refusal:
            raise
        operation = operation.split()[-1]
        words = operation.replace("_", "")
        layers = [name for name, layer in network.named_modules() if words.startswith(type(layer).__name__.lower())]
        where = f" (layer {', '.join(layers)})" if layers else ""
        raise ConfigError(
            f"run.deterministic or run.reproducible=bitwise: torch has no deterministic kernel for {operation}{where} "
            f"on this {'GPU' if weight.device.type == 'cuda' else 'CPU'}; choose another model, or set "
            "run.deterministic=false and run.reproducible=elastic: a resumed run may then differ in its last bits"
        ) from error
