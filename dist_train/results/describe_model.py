"""`dist-train model`: layers, output shapes, parameters, multiply-adds, and groups of the optimizer.

Multiply-adds are those of matrix products, convolutions and attention in a forward pass of one sample, as
`torch.utils.flop_counter` counts them, halved. Activations, normalisation, pooling and sums are not counted.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dist_train.interface.process import restored_process
from dist_train.nest import Nest, list_tensors
from dist_train.optim.groups import ParameterGroup, format_groups
from dist_train.own_code.load import shown_as_own
from dist_train.settings.schema import Config
from dist_train.system.escape import escape
from dist_train.training.setup import open_network

SAMPLES = 2
"""Samples of the pass: with one, a network that squeezes its tensors would lose a dimension."""


@dataclass
class Layer:
    """A module without modules in it, or one with parameters of its own."""

    name: str
    kind: str
    parameters: int
    """Weights of the module itself, without those of modules in it."""
    trained: int
    """Weights that take gradients."""
    outputs: list[list[int]] | None = None
    """Shapes of the tensors that it returned last, for one sample; None if the pass did not call it."""
    calls: int = 0
    multiply_adds: int = 0


@dataclass(frozen=True)
class ModelSummary:
    """The result of `dist-train model`."""

    name: str
    inputs: list[str]
    layers: list[Layer]
    """Layers in the order of their first calls; those that were not called come last."""
    parameters: dict[str, nn.Parameter]
    groups: list[ParameterGroup]
    multiply_adds: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain types only."""
        group_of = {name: number for number, group in enumerate(self.groups) for name in group.parameters}
        return {
            "model": self.name,
            "inputs": self.inputs,
            "layers": [vars(layer) for layer in self.layers],
            "parameters": [
                {
                    "name": name,
                    "shape": list(parameter.shape),
                    "dtype": str(parameter.dtype).removeprefix("torch."),
                    "count": parameter.numel(),
                    "trained": parameter.requires_grad,
                    "group": group_of.get(name),
                }
                for name, parameter in self.parameters.items()
            ],
            "groups": [
                {"optimizer": group.optimizer.name, "arguments": group.arguments, "schedule": group.schedule}
                for group in self.groups
            ],
            "count": _count(self.parameters.values()),
            "trained": _count(each for each in self.parameters.values() if each.requires_grad),
            "multiply_adds": self.multiply_adds,
        }

    def __str__(self) -> str:
        count = _count(self.parameters.values())
        trained = _count(each for each in self.parameters.values() if each.requires_grad)
        frozen = {name: each for name, each in self.parameters.items() if not each.requires_grad}
        head = f"{escape(self.name)}: input {', '.join(self.inputs)}; {count:,} weights, {trained:,} of them trained"
        rows = [("layer", "kind", "output", "weights", "trained", "multiply-adds"), *map(_format_layer, self.layers)]
        rows.append(("all", "", "", f"{count:,}", f"{trained:,}", f"{self.multiply_adds:,}"))
        lines = [head, *_format_table(rows), format_groups(self.groups)]
        if frozen:
            weights = f"{_count(frozen.values()):,} weights"
            lines.append(f"frozen in the first epoch: {len(frozen)} parameters, {weights}")
            lines += [f"    {escape(name)} {list(parameter.shape)}" for name, parameter in frozen.items()]
        return "\n".join(lines)


def describe_model(config: Config) -> ModelSummary:
    """Build the network of the settings, pass samples through it, and divide its parameters; nothing is trained.

    Raises:
        UserError: the data can't be opened, or the network does not fit them.
        OwnCodeError: the user's network fails.
    """
    with restored_process():
        network, dataset, groups = open_network(config)
        inputs, _ = dataset.make_example(SAMPLES)
        layers, multiply_adds = _pass_through(network, inputs, config.model.name)
    return ModelSummary(
        config.model.name, _describe_tensors(inputs), layers, dict(network.named_parameters()), groups, multiply_adds
    )


def _pass_through(network: nn.Module, inputs: Nest, name: str) -> tuple[list[Layer], int]:
    """Call the network in evaluation mode; return its layers, and the multiply-adds of one sample."""
    layers = {
        path: Layer(path or "(itself)", type(module).__name__, *_count_own(module))
        for path, module in network.named_modules()
        if not list(module.children()) or list(module.parameters(recurse=False))
    }
    called: dict[str, Layer] = {}
    network.eval()
    with ExitStack() as stack:
        for path, module in network.named_modules():
            if path in layers:
                hook = _Recorder(path, layers[path], called)
                stack.callback(module.register_forward_hook(hook).remove)
        counter = stack.enter_context(FlopCounterMode(display=False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(shown_as_own(f"model.name {name}: a pass over {SAMPLES} samples"))
        network(inputs)
    counts = counter.get_flop_counts()
    for path, layer in layers.items():
        layer.multiply_adds = _to_multiply_adds(counts.get(_join(network, path), {}))
    found = [*called.values(), *(layer for path, layer in layers.items() if path not in called)]
    return found, _to_multiply_adds(counts.get("Global", {}))


@dataclass(frozen=True)
class _Recorder:
    """A hook that records the shapes that a layer returns."""

    path: str
    layer: Layer
    called: dict[str, Layer]

    def __call__(self, module: nn.Module, inputs: Any, output: Nest) -> None:  # noqa: ARG002
        self.called[self.path] = self.layer
        self.layer.calls += 1
        self.layer.outputs = [list(tensor.shape[1:]) for tensor in list_tensors(output)]


def _join(network: nn.Module, path: str) -> str:
    """Return the name that torch's counter has for a module."""
    return ".".join([type(network).__name__, *([path] if path else [])])


def _to_multiply_adds(counts: Any) -> int:
    return int(sum(counts.values())) // (2 * SAMPLES)


def _count_own(module: nn.Module) -> tuple[int, int]:
    own = list(module.parameters(recurse=False))
    return _count(own), _count(each for each in own if each.requires_grad)


def _count(parameters: Any) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _describe_tensors(inputs: Nest) -> list[str]:
    def describe(tensor: Tensor) -> str:
        return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape[1:])}"

    return [describe(tensor) for tensor in list_tensors(inputs)]


def _format_layer(layer: Layer) -> tuple[str, ...]:
    times = f" x{layer.calls}" if layer.calls > 1 else ""
    outputs = "not called" if layer.outputs is None else ", ".join(map(str, layer.outputs)) or "no tensor"
    counts = (f"{number:,}" for number in (layer.parameters, layer.trained, layer.multiply_adds))
    return (escape(layer.name), f"{escape(layer.kind)}{times}", outputs, *counts)


def _format_table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    texts = (
        "  ".join(f"{cell:{'<' if place < 3 else '>'}{width}}" for place, (cell, width) in cells)
        for cells in (enumerate(zip(row, widths, strict=True)) for row in rows)
    )
    return [text.rstrip() for text in texts]
