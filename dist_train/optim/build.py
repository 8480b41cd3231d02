"""Build torch's optimizers from the settings."""

import inspect
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer

from dist_train.optim.groups import ParameterGroup, find_groups
from dist_train.optim.muon import Muon
from dist_train.optim.several import Several, list_parts
from dist_train.settings.optim import Optim

_FUSED = ("sgd", "adam", "adamw")
"""Optimizers with one kernel for all parameters on CPU and CUDA; the others update all of them by foreach."""
CLASSES: dict[str, type[Optimizer]] = {
    **{name.lower(): kind for name, kind in vars(torch.optim).items() if isinstance(kind, type)},
    "muon": Muon,
}
"""The optimizers by their names in the settings."""


def build_optimizer(config: Optim, network: nn.Module) -> Optimizer:
    """Build the optimizer of all parameters of `network` that take gradients.

    Its groups have two keys of ours: `param_names`, and `schedule`, which changes `lr` from its first value,
    `initial_lr`.

    Raises:
        ConfigError: as `find_groups`.
    """
    groups = find_groups(config, network)
    configs = list({id(group.optimizer): group.optimizer for group in groups}.values())
    parts = [_build([group for group in groups if group.optimizer is each]) for each in configs]
    optimizer = parts[0] if len(parts) == 1 else Several(parts)
    begin_momentum(optimizer)
    return optimizer


def _build(groups: list[ParameterGroup]) -> Optimizer:
    """Build the one optimizer of these groups."""
    config = groups[0].optimizer
    arguments = config.arguments()
    # Fused SGD can't begin a momentum that dampens: its first one would have to be the whole gradient.
    is_fused = config.name in _FUSED and not any(group.arguments.get("dampening") for group in groups)
    way = "fused" if is_fused else "foreach"
    if way in inspect.signature(CLASSES[config.name]).parameters:
        arguments[way] = True
    build: Any = CLASSES[config.name]
    optimizer: Optimizer = build(
        [{**group.arguments, "params": list(group.parameters.values())} for group in groups], **arguments
    )
    for group, ours in zip(groups, optimizer.param_groups, strict=True):
        ours.update(param_names=list(group.parameters), schedule=group.schedule, initial_lr=ours["lr"])
    return optimizer


def begin_momentum(optimizer: Optimizer) -> None:
    """Start the momentum of fused SGD at zero, which gives the same first step.

    The fused kernel needs a momentum of every parameter as soon as one has it, and a parameter may have its first
    gradient later than others. If a gradient scaler skips the first step, the kernel would read memory that was never
    written.
    """
    for group in [group for part in list_parts(optimizer) if isinstance(part, SGD) for group in part.param_groups]:
        for parameter in group["params"] if group["fused"] and group["momentum"] else ():
            if optimizer.state[parameter].get("momentum_buffer") is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
