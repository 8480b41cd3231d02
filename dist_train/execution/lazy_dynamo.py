"""Keep torch's compiler out of a training that compiles nothing: its import takes as long as torch's own.

torch 2.11 to 2.15 imports `torch._dynamo` in eager mode only to find that it is not used: at the first call of a
function that must not be traced (an optimizer's constructor, DDP's forward pass), for the mode that DDP's constructor
asks for, and at each step of an optimizer (`optim.unwrapped_step` avoids that). A torch that is built differently
imports it as usual, and so does code that uses other attributes of it.
"""

import importlib
import inspect
import sys
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from dist_train.errors import ConfigError, OwnCodeError

_NOT_TRACED = (
    (Optimizer, "add_param_group"),
    (Optimizer, "state_dict"),
    (Optimizer, "load_state_dict"),
    (Optimizer, "zero_grad"),
    (DistributedDataParallel, "_inside_ddp_forward"),
)
# As torch.autograd.backward calls it.
_run_backward = getattr(torch.autograd.graph, "_engine_run_backward", None)
_SPOILED = {
    "through the graph a second time": "A tensor of an earlier pass is in the loss: detach what is kept between passes",
    "modified by an inplace operation": "Write the result to another tensor, such as x = x + 1 instead of x += 1",
}
"""What torch says of a graph that the user's code has spoiled, and what to do."""
# What `torch._dynamo.utils` returns to DDP unless another mode was set.
_DDP_MODE = "ddp_optimizer"


def defer_dynamo_import() -> None:
    """Let torch run without importing its compiler in this process, unless it is imported already."""
    if "torch._dynamo" in sys.modules:
        return
    for owner, name in _NOT_TRACED:
        function = inspect.unwrap(getattr(owner, name, defer_dynamo_import))
        function.__dict__.setdefault("__dynamo_disable", function)  # where `torch._compile` keeps its wrapper
    utils = _LazyModule("torch._dynamo.utils", get_optimize_ddp_mode=lambda: _DDP_MODE)
    torch._dynamo = _LazyModule("torch._dynamo", utils=utils)  # type: ignore[assignment]


class _LazyModule:
    """A module that is imported at the first use of an attribute other than the `known` ones."""

    def __init__(self, name: str, **known: object) -> None:
        self._name = name
        self.__dict__.update(known)

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._name), name)


def backward(loss: Tensor, gradient: Tensor) -> None:
    """Call `loss.backward(gradient)`, both float [], without the shape check for which torch imports sympy.

    Raises:
        ConfigError: the loss depends on no parameter.
        OwnCodeError: the user's code has spoiled the graph, which only the backward pass finds.
    """
    if not loss.requires_grad:
        raise ConfigError(
            "model: a pass gave an output without a gradient, so that there is nothing to learn from; leave out "
            "torch.no_grad(), .detach() and torch.set_grad_enabled(False), and use a parameter in every pass"
        )
    try:
        if _run_backward is None:
            loss.backward(gradient)  # type: ignore[no-untyped-call]
        else:
            _run_backward((loss,), (gradient,), False, False, (), allow_unreachable=True, accumulate_grad=True)
    except RuntimeError as error:
        if advice := next((advice for words, advice in _SPOILED.items() if words in str(error)), None):
            message = str(error).partition(". ")[0]
            raise OwnCodeError(f"your code failed in the backward pass: RuntimeError: {message}. {advice}") from error
        raise
