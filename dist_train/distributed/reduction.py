"""How the gradients of a step become the mean over the global batch; here for one process.

    SingleProcess          its gradients are that mean already                                   (this module)
    DDPReduction           DistributedDataParallel: equal to float tolerance at any number of ranks   (`ddp`)
    ShardedTreeReduction   a fixed binary tree: the same bits at any number of ranks         (`sharded_tree`)

Two scalars are reduced with the gradients, to save a second collective: the sum of losses over the global batch, and
how many ranks request a stop.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from dist_train.distributed.world import World

LOSS_SUM, STOP_REQUESTS = range(2)
"""Positions in the scalars that `finish` returns."""
_NO_CONTEXT: AbstractContextManager[None] = nullcontext()


class GradientReduction:
    """The base class of the reductions, whose methods do what one process needs.

    A step calls `begin`, then for each shard and each micro-batch `record_loss` and the backward pass, then `finish`.
    """

    averaged_over = 1
    """The number by which the sum of all ranks' gradients is divided."""

    def __init__(self, model: nn.Module, network: nn.Module, world: World) -> None:
        """
        Args:
            model: what a step calls: `network`, which may be compiled or wrapped.
            network: the plain module whose parameters are trained.
        """
        self.model = model
        self._device = world.device
        self._parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        dtypes = (parameter.dtype.to_real() for parameter in self._parameters)
        self._dtype = reduce(torch.promote_types, dtypes, torch.promote_types(torch.get_default_dtype(), torch.float32))
        """The dtype of losses and scalars: the widest of the parameters, at least fp32."""
        self._false, self._true = torch.tensor([0, 1], dtype=self._dtype, device=world.device).unbind()
        self._stop_requested = False
        self._losses: list[Tensor] = []
        self._counted: list[Tensor] = []
        self._loss_weights: dict[float, Tensor] = {}

    def begin(self, stop_requested: bool) -> None:
        """Start a step: clear the gradients, and store whether this rank requests a stop."""
        for parameter in self._parameters:
            parameter.grad = None
        self._stop_requested = stop_requested
        self._losses, self._counted = [], []

    def loss_weight(self, global_samples: int, has_samples: bool) -> Tensor:
        """Factor of a sum of losses in the mean over the global batch, float [], on the device.

        The backward pass starts from it. It is kept, because there are few sizes of global batches.

        Args:
            global_samples: samples of the whole global batch.
            has_samples: False for a shard of placeholder samples, which weigh nothing.
        """
        weight = self.averaged_over / global_samples if has_samples else 0.0
        if weight not in self._loss_weights:
            self._loss_weights[weight] = torch.tensor(weight, dtype=self._dtype, device=self._device)
        return self._loss_weights[weight]

    def shard(self, has_samples: bool) -> AbstractContextManager[None]:  # noqa: ARG002
        """Context of the forward and backward passes of one shard."""
        return _NO_CONTEXT

    def backward_pass(self, is_last: bool) -> AbstractContextManager[Any]:  # noqa: ARG002
        """Context of one forward and backward pass; ranks reduce their gradients in the last of a step."""
        return _NO_CONTEXT

    def record_loss(self, loss: Tensor, has_samples: bool) -> Tensor:
        """Add the loss [] to the scalars if it `has_samples`; return the loss to start the backward pass from."""
        loss = loss.to(self._dtype)
        value = loss.detach()
        self._losses.append(value)
        if has_samples:
            self._counted.append(value)
        return loss

    def finish(self) -> Tensor:
        """Return the scalars of all ranks, float [2]; the parameters' `grad` is the mean over the global batch."""
        return self._own_scalars()

    def gradients(self) -> list[Tensor]:
        """Return the gradients of this step; parameters that took no part in it have none."""
        return [parameter.grad for parameter in self._parameters if parameter.grad is not None]

    def is_own_loss_finite(self) -> bool:
        """Whether the losses of this rank's own passes in the last step were finite."""
        return all(bool(loss.isfinite()) for loss in self._losses)

    def _own_scalars(self) -> Tensor:
        counted = self._counted
        loss_sum = counted[0] if len(counted) == 1 else sum(counted, self._false)
        return torch.stack((loss_sum, self._true if self._stop_requested else self._false))


class SingleProcess(GradientReduction):
    """The gradients of one process, which are the mean over the global batch already."""
