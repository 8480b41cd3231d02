"""Build torch's optimizer from the settings, and continue one from a checkpoint."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from dist_train.errors import CheckpointError
from dist_train.settings.schema import Optim

_FUSED = ("SGD", "Adam", "AdamW")
"""Optimizers with one kernel for all parameters on CPU and CUDA; the others update all of them by foreach."""


def build_optimizer(config: Optim, network: nn.Module) -> Optimizer:
    """Build the optimizer of `config.name` over all parameters of `network` that take gradients."""
    name, arguments = type(config).__name__, config.arguments()
    # Fused SGD can't begin a momentum that dampens: its first one would have to be the whole gradient.
    is_fused = name in _FUSED and not arguments.get("dampening")
    optimizer_class: type[Optimizer] = getattr(torch.optim, name)
    way = "fused" if is_fused else "foreach"
    if way in inspect.signature(optimizer_class).parameters:
        arguments[way] = True
    optimizer = optimizer_class([p for p in network.parameters() if p.requires_grad], **arguments)
    _begin_momentum(optimizer)
    return optimizer


def unwrapped_step(optimizer: Optimizer) -> Callable[[], object]:
    """Return the optimizer's step without torch's wrappers for hooks and profiling.

    Nothing here uses them; they import torch's compiler, which takes as long as torch itself.
    """
    return torch.no_grad()(partial(inspect.unwrap(type(optimizer).step), optimizer))


def load_optimizer(optimizer: Optimizer, saved: dict[str, Any], step: int) -> None:
    """Continue from a checkpoint's state under today's arguments: a changed weight decay is what the user asks for.

    Args:
        saved: a state_dict of the same optimizer over the same parameters.
        step: finished steps of the checkpoint.

    Raises:
        CheckpointError: it is of another optimizer or of other parameters.
    """
    today = optimizer.state_dict()["param_groups"]
    try:
        pairs = zip(saved["param_groups"], today, strict=True)
        groups = [{**now, "params": before["params"]} for before, now in pairs]
        optimizer.load_state_dict({**saved, "param_groups": groups})
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"training.pt: its optimizer does not fit: {error}") from error
    _complete_state(optimizer, step)
    _begin_momentum(optimizer)
    _match_strides(optimizer)


def _begin_momentum(optimizer: Optimizer) -> None:
    """Start the momentum of fused SGD at zero, which gives the same first step.

    The fused kernel needs a momentum of every parameter as soon as one has it, and a parameter may have its first
    gradient later than others. If a gradient scaler skips the first step, the kernel would read memory that was never
    written.
    """
    for group in optimizer.param_groups if isinstance(optimizer, SGD) else ():
        for parameter in group["params"] if group["fused"] and group["momentum"] else ():
            if optimizer.state[parameter].get("momentum_buffer") is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _complete_state(optimizer: Optimizer, step: int) -> None:
    """Add what a changed argument (`amsgrad`, `centered`, a momentum) keeps and the checkpoint does not have.

    One step of the same optimizer on a parameter of its own shows what it keeps; torch starts all of it at zero.
    """
    for group in optimizer.param_groups:
        probe = nn.Parameter(torch.zeros(1, 1))
        probe.grad = torch.zeros_like(probe)
        arguments = {key: value for key, value in group.items() if key != "params"}
        build: Any = type(optimizer)
        probed: Optimizer = build([{**arguments, "params": [probe]}])
        unwrapped_step(probed)()
        kept = probed.state[probe]
        names = [name for name, value in kept.items() if isinstance(value, Tensor) and value.shape == (1, 1)]
        # A parameter without a gradient so far has no state, and torch tells it by that. SGD has no state but the
        # momentum, so without one before no parameter has any.
        adds_all = names and step > 0 and set(names) == set(kept) and not optimizer.state
        for parameter in [p for p in group["params"] if adds_all or p in optimizer.state]:
            state = optimizer.state[parameter]
            state.update({name: torch.zeros_like(parameter) for name in names if state.get(name) is None})


def _match_strides(optimizer: Optimizer) -> None:
    """Give loaded state the strides of its parameter: fused kernels walk both as one block of memory."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.dim() > 0:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
