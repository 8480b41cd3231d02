"""Settings -> optimizer, learning rate and average of the weights."""

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dist_train.distributed.flat import FlatGradient, views
from dist_train.settings.schema import Optim

# Those with one fused kernel for all weights, on CPU and on CUDA; the rest update in groups (foreach).
_FUSED = ("SGD", "Adam", "AdamW")
# Those that refuse groups when the learning rate is a tensor: they choose for themselves then.
_NO_GROUPS_COMPILED = ("Adam", "AdamW")


def build_optimizer(
    config: Optim, model: nn.Module, compiled: bool = False, scaled: bool = False
) -> torch.optim.Optimizer:
    """The optimizer of `config.name` over all weights of `model` that take gradients.

    Args:
        compiled: the update is going to be compiled, which fuses it better than torch's own kernels; the learning
            rate is a tensor then, because a number would be a constant of the compiled graph.
        scaled: the loss is scaled, so that a step may be left out (`begin_momentum`).
    """
    name, arguments = type(config).__name__, config.arguments()
    optimizer: type[torch.optim.Optimizer] = getattr(torch.optim, name)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if compiled:
        arguments["lr"] = torch.tensor(arguments["lr"], device=weights[0].device)
        if weights[0].device.type == "cuda" and "capturable" in inspect.signature(optimizer).parameters:
            arguments["capturable"] = True  # the eager first step leaves all that is kept where graphs look for it
    if name in _FUSED and not compiled and not (scaled and arguments.get("dampening")):
        arguments["fused"] = True
    elif name not in _NO_GROUPS_COMPILED:
        arguments["foreach"] = True
    return optimizer(weights, **arguments)


def begin_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Let the momentum of a fused SGD be zero where there is none yet.

    If the first step is left out, because its scaled gradients have overflowed, torch's fused kernel goes on with
    memory that nobody has written. With zeros the first step that is made is the same, but for dampening, with which
    `build_optimizer` takes no fused one.
    """
    (group,) = optimizer.param_groups
    for weight in group["params"] if group["fused"] and group["momentum"] else ():
        if optimizer.state[weight].get("momentum_buffer") is None:
            optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)


def allow_late_weights(optimizer: torch.optim.Optimizer) -> None:
    """Let weights have their first gradient later than others, which torch's fused SGD with momentum can't take."""
    if isinstance(optimizer, torch.optim.SGD):
        (group,) = optimizer.param_groups
        group.update(fused=False, foreach=True)


def update_of(optimizer: torch.optim.Optimizer) -> Callable[[], object]:
    """The optimizer's step without what torch wraps around it (hooks, profiling, a look at `differentiable`).

    Nobody has hooks on it here, and around the update of one flat weight they cost more than it does.
    """
    step = inspect.unwrap(type(optimizer).step)
    return torch.no_grad()(partial(step, optimizer))


class FlatUpdate:
    """The update of an optimizer's weights as one operation for each flat gradient, instead of one for each weight.

    Torch's optimizers work element by element, so to them a weight is as good as many side by side. The weights are
    moved to where they lie like their gradients, and the optimizer is given those stretches in their place.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, flats: Sequence[FlatGradient]) -> None:
        """Change `optimizer`, which has one group of weights; weights without a flat gradient stay as they are."""
        (group,) = optimizer.param_groups
        self._optimizer = optimizer
        self._weights: list[nn.Parameter] = group["params"]
        self._owners: dict[nn.Parameter, FlatGradient] = {}
        for gradient in flats:
            if _have_one_age(optimizer, gradient.weights):
                flat = _flattened(gradient)
                self._owners[flat] = gradient
                _join_state(optimizer, flat, gradient)
        inside = {weight for gradient in self._owners.values() for weight in gradient.weights}
        others = [weight for weight in self._weights if weight not in inside]
        for weight in others:
            _lay_out_state(optimizer, weight)
        group["params"] = [*self._owners, *others]

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state_dict as it would be with the weights themselves; tensors may be views."""
        kept = self._optimizer.state
        state = {weight: dict(kept[weight]) for weight in self._weights if weight in kept}
        for flat, (_, weights, starts) in self._owners.items():
            if flat not in kept:  # nothing is, before the first update; to ask a defaultdict for it would make it
                continue
            parts = {
                name: views(value, weights, starts) if _is_of(value, flat) else [value] * len(weights)
                for name, value in kept[flat].items()
            }
            for number, weight in enumerate(weights):
                state[weight] = {name: values[number] for name, values in parts.items()}
        numbered = {number: state[weight] for number, weight in enumerate(self._weights) if weight in state}
        (group,) = self._optimizer.param_groups
        return {"state": numbered, "param_groups": [{**group, "params": list(range(len(self._weights)))}]}


def _have_one_age(optimizer: torch.optim.Optimizer, weights: list[nn.Parameter]) -> bool:
    """Whether what the optimizer keeps once a weight, such as a count of steps, is the same for all of them."""
    if any(weight.dim() == 0 for weight in weights):
        return False  # what is kept once could not be told from what is kept for each element
    kept = [
        {name: value for name, value in optimizer.state[weight].items() if not _is_of(value, weight)}
        if weight in optimizer.state
        else None
        for weight in weights
    ]
    return all(each == kept[0] for each in kept)


def _is_of(value: Any, weight: Tensor) -> bool:
    """Whether something in an optimizer's state is kept for each element of a weight."""
    return isinstance(value, Tensor) and value.shape == weight.shape


def _flattened(gradient: FlatGradient) -> nn.Parameter:
    """One weight over all, in whose memory they lie from now on."""
    flat = nn.Parameter(_joined([weight.detach() for weight in gradient.weights], gradient))
    flat.grad = gradient.tensor
    for weight, view in zip(gradient.weights, views(flat.detach(), gradient.weights, gradient.starts), strict=True):
        weight.data = view
    return flat


def _join_state(optimizer: torch.optim.Optimizer, flat: nn.Parameter, gradient: FlatGradient) -> None:
    states = [optimizer.state.pop(weight) for weight in gradient.weights if weight in optimizer.state]
    if states:
        optimizer.state[flat] = {
            name: _joined([state[name] for state in states], gradient) if _is_of(value, gradient.weights[0]) else value
            for name, value in states[0].items()
        }


def _joined(values: list[Tensor], gradient: FlatGradient) -> Tensor:
    """Something of each weight, laid side by side like the gradients."""
    flat = torch.zeros_like(gradient.tensor, dtype=values[0].dtype)
    for view, value in zip(views(flat, gradient.weights, gradient.starts), values, strict=True):
        view.copy_(value)
    return flat


def _lay_out_state(optimizer: torch.optim.Optimizer, weight: Tensor) -> None:
    """Give what came from a checkpoint the strides of its weight: fused kernels walk both as one block."""
    state = optimizer.state.get(weight, {})
    for name, value in state.items():
        if _is_of(value, weight):
            state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def lr_at(config: Optim, step: int, steps_per_epoch: int, total_steps: int) -> float:
    """Learning rate of the 0-based `step`: a pure function, so that a resumed run needs no scheduler's state."""
    warmup = round(config.warmup_epochs * steps_per_epoch)
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if config.schedule == "step":
        return rise * config.lr * config.gamma ** (step // max(1, round(config.step_size * steps_per_epoch)))
    if config.schedule == "multistep":
        passed = sum(step >= round(milestone * steps_per_epoch) for milestone in config.milestones)
        return rise * config.lr * config.gamma**passed
    if config.schedule == "cosine":
        progress = max(0, step - warmup) / max(1, total_steps - warmup)
        return rise * _anneal(config.lr, config.eta_min, progress)
    if config.schedule == "onecycle":
        return _one_cycle(config, step, total_steps)
    return rise * config.lr


def _one_cycle(config: Optim, step: int, total_steps: int) -> float:
    """Smith and Topin, arXiv:1708.07120, in the two cosine phases of `torch.optim.lr_scheduler.OneCycleLR`."""
    start = config.lr / config.div_factor
    top = config.pct_start * total_steps - 1
    if step <= top:
        return _anneal(start, config.lr, step / top if top > 0 else 1.0)
    return _anneal(config.lr, start / config.final_div_factor, (step - top) / max(1.0, total_steps - 1 - top))


def _anneal(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


class Average:
    """Exponential moving average of a network's weights; buffers follow the network's newest.

    After step t the average is `decay * average + (1 - decay) * weights` (Polyak and Juditsky 1992; the form with a
    decay as in Tarvainen and Valpola, arXiv:1703.01780).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self._decay = decay
        self._source = network
        self._pairs = list(zip(self.network.parameters(), network.parameters(), strict=True))

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights of the step that has just been made."""
        averages, weights = zip(*self._pairs, strict=True)
        torch._foreach_lerp_(list(averages), list(weights), 1 - self._decay)
        for average, buffer in zip(self.network.buffers(), self._source.buffers(), strict=True):
            average.copy_(buffer)
