"""Continue an optimizer from a checkpoint."""

import inspect
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dist_train.errors import CheckpointError
from dist_train.optim.build import begin_momentum, is_own
from dist_train.optim.combined import list_parts, unwrapped_step
from dist_train.own_code.load import shown_as_own
from dist_train.system.escape import escape


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
    _check_members(saved["param_groups"], today, file)
    faults = [*_find_misfits(optimizer, saved)]
    if [group["params"] for group in saved["param_groups"]] != [group["params"] for group in today]:
        faults.insert(0, "it is of other parameters")
    if faults:
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise CheckpointError(f"{file}: its optimizer does not fit: {'; '.join(faults[:5])}{more}")
    with shown_as_own("optim.name: loading the state of the optimizer") if is_own(optimizer) else nullcontext():
        optimizer.load_state_dict({**saved, "param_groups": today})
    _complete_state(optimizer, step)
    begin_momentum(optimizer)
    _match_strides(optimizer)


def _check_members(saved: list[dict[str, Any]], today: list[dict[str, Any]], file: str) -> None:
    """Raise CheckpointError if a parameter was in another group; earlier versions had one group, without names."""
    before, now = (
        {name: number for number, group in enumerate(groups) for name in group.get("param_names", ())}
        for groups in (saved, today)
    )
    if before and (moved := [name for name in {**before, **now} if before.get(name) != now.get(name)]):
        more = f" and {len(moved) - 3} more" if len(moved) > 3 else ""
        raise CheckpointError(
            f"{file}: optim.groups: {escape(', '.join(moved[:3]))}{more} had another group, or none; a resumed run can "
            "change what a group sets, and not its parameters. Set the patterns back, give the run another name "
            "(run.name=...), or start it at step 0 (run.resume=never, which moves the old one aside)"
        )


def _find_misfits(optimizer: Optimizer, saved: dict[str, Any]) -> Iterator[str]:
    """Describe where a saved state differs in form from what the optimizer keeps of its parameters."""
    parameters = [(parameter, kept) for group, kept in _list_groups(optimizer) for parameter in group["params"]]
    kinds: dict[tuple[int, frozenset[str]], list[frozenset[str]]] = {}
    for number, state in saved["state"].items():
        if not 0 <= number < len(parameters):
            yield f"it has a parameter {number}, and the network has {len(parameters)}"
            continue
        parameter, kept = parameters[number]
        if kept is None:
            continue
        probed = kept.of(parameter.dim())
        kinds.setdefault((id(kept), frozenset(probed)), []).append(frozenset(state))
        needed = _list_needed(probed, parameter) if state.keys() & probed.keys() else [*probed]
        if lacking := [name for name in needed if name not in state]:
            yield f"parameter {number} lacks {', '.join(lacking)}"
        for name, value in state.items():
            if fault := _find_misfit(name, value, parameter, probed.get(name)):
                yield f"{escape(name, 40)} of parameter {number} {fault}"
    for names in kinds.values():
        if lacking := sorted(frozenset().union(*names) - frozenset.intersection(*names)):
            yield f"some parameters lack {escape(', '.join(lacking))}"


def _list_needed(probed: dict[str, Any], parameter: Tensor) -> list[str]:
    """Return what a state must have: all that `_complete_state` does not add."""
    shape = _probe_shape(parameter.dim())
    return [name for name, value in probed.items() if isinstance(value, Tensor) and value.shape != shape]


def _find_misfit(name: str, value: Any, parameter: Tensor, probed: Any) -> str | None:
    """Describe how one value of a parameter's state differs from what the optimizer keeps, None if it fits.

    Args:
        probed: this value for the probe of `_Kept.of`; None if the optimizer does not keep it today.
    """
    if value is None:
        return "is missing" if isinstance(probed, Tensor) and name != "momentum_buffer" else None
    if not isinstance(value, Tensor | int | float):
        return f"is a {type(value).__name__}"
    if isinstance(probed, Tensor) and not isinstance(value, Tensor):
        return "is no tensor"
    found = value if isinstance(value, Tensor) else torch.tensor(float(value))
    if isinstance(probed, Tensor) and probed.dim() == 0 and found.numel() != 1:
        return f"is {list(found.shape)}, not one number"
    if isinstance(probed, Tensor) and probed.dim() > 0:
        sizes = {1: 1, **{_FIRST_SIZE + number: size for number, size in enumerate(parameter.shape)}}
        expected = [sizes[size] for size in probed.shape if size in sizes]
        if list(found.shape) != expected:
            return f"is {list(found.shape)}, and the parameter {list(parameter.shape)}"
    if found.dtype != parameter.dtype and not (found.numel() == 1 and found.is_floating_point()):
        return f"is {found.dtype}, and the parameter {parameter.dtype}"
    if not bool(torch.isfinite(found).all()):
        return "is not finite"
    return f"is {found.item():g}" if name == "step" and found.item() < 0 else None


_FIRST_SIZE = 2


def _probe_shape(dimensions: int) -> tuple[int, ...]:
    return tuple(range(_FIRST_SIZE, _FIRST_SIZE + max(1, dimensions)))


class _Kept:
    """What an optimizer keeps of the parameters of a group: its state after a step on a small one, the probe.

    The sizes of a probe all differ, so that each size of its state is known.
    """

    def __init__(self, optimizer: Optimizer, group: dict[str, Any]) -> None:
        self._build: Any = type(optimizer)
        self._group = {key: value for key, value in group.items() if key not in ("params", "param_names")}
        taken = inspect.signature(type(optimizer)).parameters
        self._arguments = {key: value for key, value in self._group.items() if key in taken}
        """Arguments for the optimizer's constructor, which may need them although the group has them too."""
        self._found: dict[int, dict[str, Any]] = {}

    def of(self, dimensions: int) -> dict[str, Any]:
        """Return the state of a probe with these dimensions, but at least one."""
        if dimensions not in self._found:
            probe = nn.Parameter(torch.zeros(_probe_shape(dimensions)))
            probe.grad = torch.zeros_like(probe)
            probed: Optimizer = self._build([{**self._group, "params": [probe]}], **self._arguments)
            unwrapped_step(probed)()
            self._found[dimensions] = dict(probed.state[probe])
        return self._found[dimensions]


def _list_groups(optimizer: Optimizer) -> list[tuple[dict[str, Any], _Kept | None]]:
    """Return all groups in the order of their numbers, each with what its optimizer keeps if that is known."""
    return [
        (group, None if is_own(part) else _Kept(part, group))
        for part in list_parts(optimizer)
        for group in part.param_groups
    ]


def _complete_state(optimizer: Optimizer, step: int) -> None:
    """Add what a changed argument (`amsgrad`, `centered`, a momentum) keeps and the checkpoint does not have.

    Torch starts all of it at zero.
    """
    for group, kept in _list_groups(optimizer):
        if kept is None:
            continue
        had_none = not any(parameter in optimizer.state for parameter in group["params"])
        for parameter in group["params"]:
            probed, shape = kept.of(parameter.dim()), _probe_shape(parameter.dim())
            names = [name for name, value in probed.items() if isinstance(value, Tensor) and value.shape == shape]
            # A parameter without a gradient so far has no state, and torch tells it by that. SGD has no state but the
            # momentum, so without one before no parameter has any.
            adds_all = names and step > 0 and set(names) == set(probed) and had_none and parameter.requires_grad
            if adds_all or parameter in optimizer.state:
                state = optimizer.state[parameter]
                state.update({name: torch.zeros_like(parameter) for name in names if state.get(name) is None})


def _match_strides(optimizer: Optimizer) -> None:
    """Give loaded state the strides of its parameter: fused kernels walk both as one block of memory."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.dim() > 0:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
