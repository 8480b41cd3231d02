"""The user's optimizers and schedules, named by references."""

import inspect
from collections.abc import Callable
from math import isfinite
from typing import Any

from torch import Tensor
from torch.optim import Optimizer, SparseAdam

from dist_train.errors import ConfigError
from dist_train.own_code.load import check_call, load, read_parameters, shown_as_own
from dist_train.own_code.reference import parse_reference
from dist_train.settings.loading.values import format_value
from dist_train.settings.schema.optim import OwnOptim


def build_own(config: OwnOptim, groups: list[dict[str, Any]]) -> Optimizer:
    """Call the class or function of `config.name` with groups of parameters, `lr` and `optim.args`.

    Raises:
        ConfigError: it can't be called so, or returns something that can't train here.
        OwnCodeError: it raises.
    """
    what = f"optim.name {config.name}"
    kind, reference = load(config.name, "optim.name"), parse_reference(config.name)
    if not callable(kind):
        raise ConfigError(f"{what}: is a {type(kind).__name__}, and no class or function")
    parameters = read_parameters(kind)
    if parameters and reference and (fault := parameters.find_fault(reference, config.args, {"lr"}, 1)):
        raise ConfigError(f"{what}: {fault.text}")
    with shown_as_own(what):
        optimizer = kind([dict(group) for group in groups], **config.arguments())
    if not isinstance(optimizer, Optimizer):
        raise ConfigError(f"{what}: is a {type(optimizer).__name__}, and no torch.optim.Optimizer")
    if _needs_closure(optimizer):
        raise ConfigError(f"{what}: its step needs a closure, and the backward pass is made before the step here")
    if isinstance(optimizer, SparseAdam):
        raise ConfigError(f"{what}: needs sparse gradients, which ranks can't add up; use torch.optim:Adam")
    _check_groups(optimizer, groups, what)
    return optimizer


def _needs_closure(optimizer: Optimizer) -> bool:
    parameters = inspect.signature(optimizer.step).parameters.values()
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return any(each.default is inspect.Parameter.empty and each.kind not in kinds for each in parameters)


def _check_groups(optimizer: Optimizer, groups: list[dict[str, Any]], what: str) -> None:
    """Check that an optimizer has the groups that it was given, each with what can be set; raises ConfigError."""
    given, found = ([list(map(id, group["params"])) for group in each] for each in (groups, optimizer.param_groups))
    if given != found:
        raise ConfigError(f"{what}: has {len(found)} groups that are not the {len(given)} that it was given")
    if not all("lr" in group for group in optimizer.param_groups):
        raise ConfigError(f"{what}: has no lr in its groups, which a schedule could change")
    known = {"params", *optimizer.defaults}
    if unknown := sorted({key for group in groups for key in group} - known):
        raise ConfigError(
            f"optim.groups: sets {', '.join(unknown)}, which no group of {what} has; it has "
            f"{', '.join(optimizer.defaults)}"
        )


def describe_unstorable(value: Any) -> str | None:
    """Return the kind of a value in an optimizer's state that a checkpoint can't hold; None if it can hold all."""
    if isinstance(value, dict | list | tuple):
        inner = value.values() if isinstance(value, dict) else value
        return next((kind for each in inner if (kind := describe_unstorable(each))), None)
    is_plain = value is None or type(value) in (bool, int, float, str) or isinstance(value, Tensor)
    return None if is_plain else type(value).__name__


def load_schedule(text: str, total_steps: int) -> Callable[[int], float]:
    """Return the function of a 0-based step that a reference names; raises ConfigError and OwnCodeError."""
    function = load(text, "optim.schedule")
    if not callable(function):
        raise ConfigError(f"optim.schedule {text}: is a {type(function).__name__}, and no function")
    check_call(function, f"optim.schedule {text}", "step", "total_steps")

    def find_factor(step: int) -> float:
        with shown_as_own(f"optim.schedule {text} at step {step}"):
            factor = function(step, total_steps)
        if not isinstance(factor, int | float) or not isfinite(factor) or factor < 0:
            raise ConfigError(
                f"optim.schedule {text}: returned {format_value(factor)} for step {step} of {total_steps}; it must be "
                "a number of at least 0, a factor on the learning rate"
            )
        return float(factor)

    find_factor(0)
    return find_factor
