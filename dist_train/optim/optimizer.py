"""Build torch's optimizer from the settings, and continue one from a checkpoint."""

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from dist_train.errors import CheckpointError
from dist_train.settings.schema import Optim
from dist_train.system.escape import escape

_FUSED = ("SGD", "Adam", "AdamW")
"""Optimizers with one kernel for all parameters on CPU and CUDA; the others update all of them by foreach."""
_PROBE = (2, 3)
"""Shape of a parameter that shows what an optimizer keeps; both numbers differ, so that a factor is none of it."""


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


def load_optimizer(optimizer: Optimizer, saved: dict[str, Any], step: int, file: str = "training.pt") -> None:
    """Continue from a checkpoint's state under today's arguments: a changed weight decay is what the user asks for.

    Args:
        saved: a state_dict of the same optimizer over the same parameters; its form is checked already.
        step: finished steps of the checkpoint.
        file: the checkpoint's file, for messages.

    Raises:
        CheckpointError: it is of another optimizer or of other parameters.
    """
    today = optimizer.state_dict()["param_groups"]
    faults = [*_find_misfits(optimizer, saved)]
    if [group["params"] for group in saved["param_groups"]] != [group["params"] for group in today]:
        faults.insert(0, "it is of other parameters")
    if faults:
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise CheckpointError(f"{file}: its optimizer does not fit: {'; '.join(faults[:5])}{more}")
    optimizer.load_state_dict({**saved, "param_groups": today})
    _complete_state(optimizer, step)
    _begin_momentum(optimizer)
    _match_strides(optimizer)


def _find_misfits(optimizer: Optimizer, saved: dict[str, Any]) -> Iterator[str]:
    """Describe where a saved state differs in form from what the optimizer keeps of its parameters."""
    groups = [(group, _probe_state(optimizer, group)) for group in optimizer.param_groups]
    parameters = [(parameter, probed) for group, probed in groups for parameter in group["params"]]
    names = [frozenset(state) for state in saved["state"].values()]
    if lacking := sorted(frozenset().union(*names) - frozenset.intersection(*names)) if names else []:
        yield f"some parameters lack {escape(', '.join(lacking))}"
    for number, state in saved["state"].items():
        if not 0 <= number < len(parameters):
            yield f"it has a parameter {number}, and the network has {len(parameters)}"
            continue
        parameter, probed = parameters[number]
        for name, value in state.items():
            if fault := _find_misfit(name, value, parameter, probed.get(name)):
                yield f"{escape(name, 40)} of parameter {number} {fault}"


def _find_misfit(name: str, value: Any, parameter: Tensor, probed: Any) -> str | None:
    """Describe how one value of a parameter's state differs from what the optimizer keeps, None if it fits.

    Args:
        probed: this value for a parameter of `_PROBE`; None if the optimizer does not keep it today.
    """
    if value is None:
        return "is missing" if isinstance(probed, Tensor) and name != "momentum_buffer" else None
    found = value if isinstance(value, Tensor) else torch.tensor(float(value))
    if isinstance(probed, Tensor) and probed.shape == _PROBE and found.shape != parameter.shape:
        return f"is {list(found.shape)}, and the parameter {list(parameter.shape)}"
    if isinstance(probed, Tensor) and probed.dim() == 0 and found.numel() != 1:
        return f"is {list(found.shape)}, not one number"
    if found.dtype != parameter.dtype and not (found.numel() == 1 and found.is_floating_point()):
        return f"is {found.dtype}, and the parameter {parameter.dtype}"
    if not bool(torch.isfinite(found).all()):
        return "is not finite"
    return f"is {found.item():g}" if name == "step" and found.item() < 0 else None


def _probe_state(optimizer: Optimizer, group: dict[str, Any]) -> dict[str, Any]:
    """Return what the optimizer keeps of a parameter of shape `_PROBE`, after one step of the same optimizer."""
    probe = nn.Parameter(torch.zeros(_PROBE))
    probe.grad = torch.zeros_like(probe)
    arguments = {key: value for key, value in group.items() if key != "params"}
    build: Any = type(optimizer)
    probed: Optimizer = build([{**arguments, "params": [probe]}])
    unwrapped_step(probed)()
    return dict(probed.state[probe])


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

    Torch starts all of it at zero.
    """
    for group in optimizer.param_groups:
        kept = _probe_state(optimizer, group)
        names = [name for name, value in kept.items() if isinstance(value, Tensor) and value.shape == _PROBE]
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
