"""The whole step as one compiled graph: forward pass, loss, backward pass and update."""

from collections.abc import Callable, Iterable

import torch
import torch._dynamo
from torch import Tensor

from dist_train.flat import FlatGradient, views


def compile_step(
    loss_sum: Callable[[Tensor, Tensor], Tensor],
    flats: Iterable[FlatGradient],
    update: Callable[[], object],
    device: torch.device,
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Compile a step of one process; each size of batch gets a graph of its own when it first comes.

    Args:
        loss_sum: of (pictures, labels), the sum of the losses, float [].
        flats: where the gradients of all weights that take part lie.
        update: changes the weights by the gradients that lie there.

    Returns:
        The step: of pictures [B, C, H, W], labels int64 [B] and what the loss is multiplied by in the gradient,
        float []; it changes the weights and returns the sum of the losses. What the optimizer keeps has to be there:
        a tensor that a graph makes and keeps is not that of the next step (torch 2.15).
    """
    flats = list(flats)
    weights = [weight for flat in flats for weight in flat.weights]
    gradients = [gradient for flat in flats for gradient in views(flat.tensor, flat.weights, flat.starts)]

    def step(pictures: Tensor, labels: Tensor, loss_weight: Tensor) -> Tensor:
        loss = loss_sum(pictures, labels)
        found = torch.autograd.grad(loss, weights, loss_weight)
        with torch.no_grad():
            torch._foreach_copy_(gradients, found)
            update()
        return loss.detach()

    torch._dynamo.config.trace_autograd_ops = True  # else the graph ends before the backward pass
    # Of a small network's step, Python around the kernels is a good part.
    options: dict[str, str | int | bool | Callable[..., object]] = {"cpp_wrapper": device.type == "cpu"}
    return torch.compile(step, dynamic=False, options=options)
