"""Build torch's optimizers from the settings."""

import inspect
from collections.abc import Callable, Container
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer

from dist_train.errors import ConfigError
from dist_train.optim.combined import CombinedOptimizer, list_parts, unwrapped_step
from dist_train.optim.groups import ParameterGroup, find_groups
from dist_train.optim.muon import Muon
from dist_train.optim.own import build_own, describe_unstorable
from dist_train.own_code.load import shown_as_own
from dist_train.settings.schema.optim import Optim, OwnOptim
from dist_train.settings.schema.optim import Optimizer as OptimizerSettings

_FUSED = ("sgd", "adam", "adamw")
"""Optimizers with one kernel for all parameters on CPU and CUDA; the others update all of them by foreach."""
CLASSES: dict[str, type[Optimizer]] = {
    **{name.lower(): kind for name, kind in vars(torch.optim).items() if isinstance(kind, type)},
    "muon": Muon,
}
"""The optimizers by their names in the settings."""


def build_optimizer(config: Optim, network: nn.Module, later: Container[nn.Parameter] = frozenset()) -> Optimizer:
    """Build the optimizer of all parameters of `network` that take gradients, now or `later`.

    Its groups have two keys of ours: `param_names`, and `schedule`, which changes `lr` from its first value,
    `initial_lr`.

    Raises:
        ConfigError: as `find_groups`.
    """
    groups = find_groups(config, network, later)
    configs = {id(group.optimizer): group.optimizer for group in groups}
    parts = [_build(each, [group for group in groups if group.optimizer is each]) for each in configs.values()]
    optimizer = parts[0] if len(parts) == 1 else CombinedOptimizer(parts)
    begin_momentum(optimizer)
    return optimizer


def _build(config: OptimizerSettings, groups: list[ParameterGroup]) -> Optimizer:
    """Build the optimizer of groups that have the same."""
    given = [{"params": list(group.parameters.values()), **group.changed} for group in groups]
    optimizer = build_own(config, given) if isinstance(config, OwnOptim) else _build_torch(config, given)
    for group, built in zip(groups, optimizer.param_groups, strict=True):
        built.update(param_names=list(group.parameters), schedule=group.schedule, initial_lr=built["lr"])
    return optimizer


def _build_torch(config: OptimizerSettings, groups: list[dict[str, Any]]) -> Optimizer:
    arguments, kind = config.arguments(), CLASSES[config.name]
    # Fused SGD can't begin a momentum that dampens: its first one would have to be the whole gradient.
    dampens = any(group.get("dampening") for group in (arguments, *groups))
    is_complex = any(parameter.is_complex() for group in groups for parameter in group["params"])
    is_fused = config.name in _FUSED and not dampens and not is_complex  # torch fuses real numbers only
    way = "fused" if is_fused else "foreach"
    if way in inspect.signature(kind).parameters:
        arguments[way] = True
    build: Any = kind
    optimizer: Optimizer = build(groups, **arguments)
    return optimizer


def is_own(optimizer: Optimizer) -> bool:
    """Whether this is the user's optimizer, whose state is not known."""
    return type(optimizer) not in (*CLASSES.values(), CombinedOptimizer)


def make_step(optimizer: Optimizer, name: str) -> Callable[[], object]:
    """Return the step of the optimizer that the settings call `name`; that of the user raises OwnCodeError."""
    if not is_own(optimizer):
        return unwrapped_step(optimizer)

    def step() -> None:
        with shown_as_own(f"optim.name {name}: a step"):
            optimizer.step()

    return step


def check_storable(optimizer: Optimizer, name: str) -> None:
    """Raise ConfigError if the state of the user's optimizer can't be kept in a checkpoint."""
    if is_own(optimizer) and (kind := describe_unstorable(optimizer.state_dict()["state"])):
        raise ConfigError(
            f"optim.name {name}: its state has a {kind}, which a checkpoint can't hold; use tensors, numbers, text, "
            "lists and dictionaries"
        )


def begin_momentum(optimizer: Optimizer) -> None:
    """Start the momentum of fused SGD at zero, which gives the same first step.

    The fused kernel needs a momentum of every parameter as soon as one has it, and a parameter may have its first
    gradient later than others. If a gradient scaler skips the first step, the kernel would read memory that was never
    written. Frozen parameters have none.
    """
    for group in [group for part in list_parts(optimizer) if isinstance(part, SGD) for group in part.param_groups]:
        for parameter in group["params"] if group["fused"] and group["momentum"] else ():
            if parameter.requires_grad and optimizer.state[parameter].get("momentum_buffer") is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
