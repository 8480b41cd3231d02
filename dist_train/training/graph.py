"""The graph of a network for TensorBoard: what one pass calls, and on which outputs."""

import copy
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dist_train.monitoring.event_records import Node
from dist_train.nest import Nest
from dist_train.seeds import preserve_generators

_ODD = re.compile(r"[^\w.\-]")
"""Characters that have a meaning in the names of nodes, or none."""


def record_graph(network: nn.Module, inputs: Nest) -> list[Node]:
    """Return what an evaluation of `inputs` calls, in order, with the parameters that it uses.

    A copy of the network runs, which shares its parameters: neither the network nor a generator changes. (torch's meta
    device would do without numbers, but its convolutions import torch's compiler, which takes a second.) Raises what
    the user's code raises.
    """
    trial = copy.deepcopy(network, {id(parameter): parameter for parameter in network.parameters()}).eval()
    recorder = _Recorder(trial)
    with ExitStack() as block:
        block.enter_context(preserve_generators())
        block.enter_context(torch.no_grad())
        if "torch._dynamo" in sys.modules:  # a part of the network may be compiled
            block.enter_context(torch.compiler.set_stance("force_eager"))
        recorder.add("input", "Placeholder", (), inputs)
        with recorder:
            output = trial(inputs)
    recorder.add("output", "Identity", output, ())
    return recorder.nodes


class _Recorder(TorchFunctionMode):
    """Records each call of a function of torch, with the module that it is in."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self._makers: dict[int, str] = {}
        """The node that made a tensor, by its id."""
        self._alive: list[Tensor] = []
        """Tensors whose ids must not be used again."""
        self._names: dict[str, int] = {}
        self._scopes = [""]
        self._parameters = {id(tensor): name for name, tensor in network.named_parameters(remove_duplicate=False)}
        for name, module in network.named_modules():
            module.register_forward_pre_hook(partial(self._enter, name))
            module.register_forward_hook(self._leave, always_call=True)

    def _enter(self, name: str, module: nn.Module, inputs: Any) -> None:  # noqa: ARG002
        self._scopes.append(name)

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG002
        self._scopes.pop()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        known = {id(tensor) for tensor in _find_tensors((args, kwargs))}
        name = _name(func)
        if any(id(tensor) not in known or name.endswith("_") for tensor in _find_tensors(output)):
            self.add(name, name.strip("_"), (args, kwargs), output)
        return output

    def add(self, name: str, operation: str, inputs: Any, outputs: Any) -> None:
        """Add a node in the module that runs."""
        sources = [source for tensor in _find_tensors(inputs) if (source := self._find_maker(tensor))]
        unique = self._make_unique(f"{self._scopes[-1]}.{name.strip('_')}")
        made = list(_find_tensors(outputs))
        self.nodes.append(Node(unique, operation, tuple(sources), tuple(made[0].shape) if made else None))
        for tensor in made:
            self._makers[id(tensor)] = unique
        self._alive += made

    def _find_maker(self, tensor: Tensor) -> str | None:
        """Return the node that made a tensor; a parameter becomes one where it is used first."""
        if id(tensor) not in self._makers and id(tensor) in self._parameters:
            name = self._make_unique(self._parameters[id(tensor)])
            self.nodes.append(Node(name, "Parameter", (), tuple(tensor.shape)))
            self._makers[id(tensor)] = name
        return self._makers.get(id(tensor))

    def _make_unique(self, dotted: str) -> str:
        name = "/".join(_ODD.sub("_", part) for part in dotted.split(".") if part)
        self._names[name] = self._names.get(name, 0) + 1
        return name if self._names[name] == 1 else f"{name}_{self._names[name]}"


def _name(function: Callable[..., Any]) -> str:
    """The name of a function of torch; of an attribute, such as `Tensor.T`, that of the attribute."""
    name = getattr(function, "__name__", "call")
    owner = getattr(function, "__self__", None)
    return str(getattr(owner, "__name__", name) if name == "__get__" else name)


def _find_tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from _find_tensors(value)
    elif isinstance(values, tuple | list):
        for value in values:
            yield from _find_tensors(value)
