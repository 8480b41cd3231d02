"""Eager training without torch's compiler, whose import takes as long as torch's own.

torch 2.11 to 2.15 imports `torch._dynamo` for processes that compile nothing, always to hear that it has no part: at
the first call of a function that it must not trace (an optimizer's constructor, DDP's forward pass), for the mode that
DDP's constructor asks for, and at each step of an optimizer, to break a graph that nobody draws (`optim.update_of` goes
without). A torch that looks different imports it as ever, and so does whoever asks for more than these.
"""

import importlib
import inspect
import sys
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

_NOT_TRACED = (
    (Optimizer, "add_param_group"),
    (Optimizer, "state_dict"),
    (Optimizer, "load_state_dict"),
    (Optimizer, "zero_grad"),
    (DistributedDataParallel, "_inside_ddp_forward"),
)
# As torch.autograd.backward calls it.
_run_backward = getattr(torch.autograd.graph, "_engine_run_backward", None)
# What `torch._dynamo.utils` answers to DDP unless somebody has imported it and set another mode.
_DDP_MODE = "ddp_optimizer"


def leave_dynamo_out() -> None:
    """Let torch do without its compiler in this process, unless somebody has imported it before."""
    if "torch._dynamo" in sys.modules:
        return
    for owner, name in _NOT_TRACED:
        function = inspect.unwrap(getattr(owner, name, leave_dynamo_out))
        function.__dict__.setdefault("__dynamo_disable", function)  # where `torch._compile` keeps what it has made
    utils = _Unloaded("torch._dynamo.utils", get_optimize_ddp_mode=lambda: _DDP_MODE)
    torch._dynamo = _Unloaded("torch._dynamo", utils=utils)  # type: ignore[assignment]


class _Unloaded:
    """A module that is imported when something else is asked of it than what is `known`."""

    def __init__(self, name: str, **known: object) -> None:
        self._name = name
        self.__dict__.update(known)

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._name), name)


def backward(loss: Tensor, gradient: Tensor) -> None:
    """`loss.backward(gradient)`, both float [], without the look at their shapes, for which torch imports sympy."""
    if _run_backward is None:
        loss.backward(gradient)  # type: ignore[no-untyped-call]
    else:
        _run_backward((loss,), (gradient,), False, False, (), allow_unreachable=True, accumulate_grad=True)
