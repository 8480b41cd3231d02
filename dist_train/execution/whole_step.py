"""The whole step as one compiled graph: forward pass, loss, backward pass and update."""

import functools
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
import torch._dynamo
from torch import Tensor
from torch._dynamo.exc import FailOnRecompileLimitHit

from dist_train.distributed.flat import FlatGradient, views
from dist_train.errors import ConfigError

P = ParamSpec("P")
T = TypeVar("T")


def prepare(device: torch.device) -> None:
    """Set up torch's compiler for this process.

    Raises:
        ConfigError: it would not find a C++ compiler, which it needs on a CPU.
    """
    usual = "clang++" if sys.platform == "darwin" else "g++"
    compiler, *_ = shlex.split(os.environ.get("CXX", "")) or [usual]
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise ConfigError(
            f"train.compile needs a C++ compiler on a CPU, and there is no {compiler}; install it, name another in the "
            "variable CXX, or set train.compile=off"
        )
    # Else torch goes on without a graph after so many, and a resumed run, which counts anew, has other bits. The graphs
    # of an earlier training in this process don't count.
    torch._dynamo.reset()
    torch._dynamo.config.fail_on_recompile_limit_hit = True


def compiled(function: Callable[P, T], **arguments: Any) -> Callable[P, T]:
    """The function as graphs, one for each size of batch.

    Raises (when it is called):
        ConfigError: it takes another way from step to step, so that torch would have to compile it again and again.
    """
    graphs = torch.compile(function, dynamic=False, **arguments)

    @functools.wraps(function)
    def call(*values: P.args, **named: P.kwargs) -> T:
        try:
            return graphs(*values, **named)
        except FailOnRecompileLimitHit as error:
            raise ConfigError(
                "train.compile: the network takes another way through its layers from step to step, and torch has "
                f"compiled {torch._dynamo.config.recompile_limit} of them; set train.compile=off"
            ) from error

    return call


class WholeStep:
    """The steps of one process, compiled; each size of batch gets a graph of its own when it first comes.

    What the optimizer keeps has to be there before: a tensor that a graph makes and keeps is not that of the next step
    (torch 2.15).
    """

    def __init__(
        self,
        loss_sum: Callable[[Tensor, Tensor], Tensor],
        flats: Iterable[FlatGradient],
        update: Callable[[], Tensor | None],
        lr: Tensor,
    ) -> None:
        """
        Args:
            loss_sum: of (images, labels), the sum of the losses, float [].
            flats: where the gradients of all weights that take part lie.
            update: changes the weights by the gradients that lie there, and returns their norm if it is asked for.
            lr: the learning rate that `update` reads, float [].
        """
        flats = list(flats)
        self._weights = [weight for flat in flats for weight in flat.weights]
        self._gradients = [gradient for flat in flats for gradient in views(flat.tensor, flat.weights, flat.starts)]
        self._loss_sum, self._update, self._lr = loss_sum, update, lr
        torch._dynamo.config.trace_autograd_ops = True  # else the graph ends before the backward pass
        # Of a small network's step, Python around the kernels is a good part.
        options: dict[str, Any] = {"cpp_wrapper": lr.device.type == "cpu"}
        self.one = compiled(self._one, options=options)
        self.several = compiled(self._several, options=options)

    def _one(self, images: Tensor, labels: Tensor, loss_weight: Tensor) -> tuple[Tensor, Tensor | None]:
        """One step: of images [B, C, H, W], labels int64 [B] and what the loss is multiplied by in the gradient.

        Returns:
            The sum of the losses, float [], and what `update` has returned.
        """
        loss = self._loss_sum(images, labels)
        found = torch.autograd.grad(loss, self._weights, loss_weight, allow_unused=True, materialize_grads=True)
        with torch.no_grad():
            torch._foreach_copy_(self._gradients, found)
            norm = self._update()
        return loss.detach(), norm

    def _several(
        self, images: Sequence[Tensor], labels: Sequence[Tensor], loss_weight: Tensor, lrs: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """As many steps in a row as `lrs`, float [S], has learning rates; returns [S] of what `_one` returns."""
        losses, norms = [], []
        for step_images, step_labels, lr in zip(images, labels, lrs.unbind(), strict=True):
            self._lr.copy_(lr)
            loss, norm = self._one(step_images, step_labels, loss_weight)
            losses.append(loss)
            norms += [] if norm is None else [norm]
        return torch.stack(losses), torch.stack(norms) if norms else None
