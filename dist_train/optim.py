"""Settings -> optimizer, learning rate and average of the weights."""

import copy
import math

import torch
from torch import nn

from dist_train.config import Optim
from dist_train.eager import with_plain_step

# Those with one fused kernel for all weights, on CPU and on CUDA; the rest update in groups (foreach).
_FUSED = ("SGD", "Adam", "AdamW")
# Those that refuse groups when the learning rate is a tensor: they choose for themselves then.
_NO_GROUPS_COMPILED = ("Adam", "AdamW")


def build_optimizer(config: Optim, model: nn.Module, compiled: bool = False) -> torch.optim.Optimizer:
    """The optimizer of `config.name` over all weights of `model` that take gradients.

    Args:
        compiled: the update is going to be compiled, which fuses it better than torch's own kernels; the learning
            rate is a tensor then, because a number would be a constant of the compiled graph.
    """
    name, arguments = type(config).__name__, config.arguments()
    optimizer: type[torch.optim.Optimizer] = getattr(torch.optim, name)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if compiled:
        arguments["lr"] = torch.tensor(arguments["lr"], device=weights[0].device)
    if name in _FUSED and not compiled:
        arguments["fused"] = True
    elif name not in _NO_GROUPS_COMPILED:
        arguments["foreach"] = True
    built = optimizer(weights, **arguments)
    return built if compiled else with_plain_step(built)


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
