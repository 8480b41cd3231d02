"""The mean gradient over ranks by DistributedDataParallel."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from inspect import signature
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from dist_train.distributed.batch_norm import SynchronisedBatchNorm, has_batch_norm
from dist_train.distributed.buffers import BufferSlots
from dist_train.distributed.reduction import GradientReduction
from dist_train.distributed.shared_memory import SharedMemory
from dist_train.distributed.world import World
from dist_train.errors import ConfigError
from dist_train.nest import Nest, map_tensors

_ONE_BUCKET_MB = 2**20
"""More than any model: in shared memory, one reduction a step is fastest."""
# torch 2.15 renamed the argument and warns about the old name.
_SYNC_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in signature(DistributedDataParallel).parameters
)


class DDPReduction(GradientReduction):
    """The mean over ranks, which DistributedDataParallel computes during the backward pass.

    The scalars are reduced as the gradient of one more parameter.

    Buffers are not sent at each forward pass: `broadcast_buffers` sends those of rank 0 before they are evaluated or
    saved. Batch normalisation that is not synchronised is DDP's, at no cost a step: statistics of a rank's own share,
    running statistics of rank 0.
    """

    def __init__(
        self,
        model: nn.Module,
        network: nn.Module,
        world: World,
        trial: Callable[[nn.Module], Tensor],
        memory: SharedMemory | None = None,
        compression: Literal["none", "bf16"] = "none",
        find_unused: bool = False,
        sync_batchnorm: bool = False,
    ) -> None:
        """Wrap `model`, and run passes without effect, in which DDP arranges its buckets.

        Args:
            trial: calls the model with some samples and returns their loss, [].
            memory: where the ranks of one machine add their gradients up, uncompressed; None: through the backend.
            find_unused: look after each forward pass which parameters take no part in it. One that takes no part on
                any rank has no gradient, as in one process.
            sync_batchnorm: whether batch normalisation counts the samples of all ranks.

        Raises:
            ConfigError: some parameters of the network take no part in the loss, and `find_unused` is False.
        """
        super().__init__(model, network, world)
        self.averaged_over = world.size
        options: dict[str, Any] = {_SYNC_BUFFERS: False, "gradient_as_bucket_view": True}
        options["find_unused_parameters"] = find_unused
        if world.device.type == "cuda":
            options["device_ids"] = [world.device.index]
        if memory:
            options["bucket_cap_mb"] = _ONE_BUCKET_MB
        self._batch_norm: SynchronisedBatchNorm | None = None
        if sync_batchnorm and has_batch_norm(network):
            self._batch_norm = SynchronisedBatchNorm(memory.sum_ if memory else world.sum_, world.rank, world.size)
        is_compressed = compression == "bf16" and memory is None
        self._extended = extended = _WithScalars(
            model, world.device, torch.float64 if is_compressed else self._dtype, find_unused
        )
        self._scalars = extended.scalars
        self.model = self._ddp = DistributedDataParallel(extended, **options)
        if memory:
            self._ddp.register_comm_hook(memory, _average_in_memory)
        elif is_compressed:
            self._ddp.register_comm_hook(None, _average_as_bf16)
        self._warm_up_buckets(network, trial, world, find_unused)

    def begin(self, stop_requested: bool) -> None:
        super().begin(stop_requested)
        self._scalars.grad = None
        if self._batch_norm:
            self._batch_norm.begin_step()

    def shard(self, has_samples: bool) -> AbstractContextManager[None]:
        if self._batch_norm:
            self._batch_norm.has_samples = has_samples
        return super().shard(has_samples)

    @contextmanager
    def backward_pass(self, is_last: bool) -> Iterator[None]:
        with self._batch_norm or nullcontext(), nullcontext() if is_last else self._ddp.no_sync():
            yield

    def record_loss(self, loss: Tensor, has_samples: bool) -> Tensor:
        self._counted = []  # each pass adds its own loss to the gradient of the scalars
        loss = super().record_loss(loss, has_samples)
        self._extended.gradient = self._own_scalars().to(self._scalars.dtype)
        self._stop_requested = False
        return loss

    def is_own_loss_finite(self) -> bool:
        # With batch normalisation over all ranks, one rank's values make the losses of all ranks infinite or NaN.
        found = self._batch_norm.is_own_finite() if self._batch_norm else None
        return super().is_own_loss_finite() if found is None else found

    def finish(self) -> Tensor:
        return torch.mul(self._scalars.grad, self.averaged_over).to(self._dtype)  # type: ignore[arg-type]

    def _warm_up_buckets(
        self, network: nn.Module, trial: Callable[[nn.Module], Tensor], world: World, find_unused: bool
    ) -> None:
        """Let DDP rebuild its buckets before the first step, by passes without effect.

        DDP orders its buckets after its first backward pass, by when gradients became ready. With three or more ranks
        the order of a sum changes its bits, so the first step after a resume would differ from the same step of an
        undisturbed run. With passes before the first step of every start, both have the final buckets.
        """
        slots = BufferSlots(network)
        before = [buffer.detach().clone() for buffer in slots.current()]
        for _ in range(2):  # the buckets are rebuilt at the start of the second
            self.begin(stop_requested=False)
            with self.backward_pass(is_last=True):
                self.record_loss(trial(self.model), has_samples=True).backward()  # type: ignore[no-untyped-call]
            with world.agreement():  # every rank finds the same, and one reports it
                _check_all_used(network, find_unused)
        slots.restore(before)
        self.begin(stop_requested=False)


def _check_all_used(network: nn.Module, find_unused: bool) -> None:
    """Raise ConfigError with the names of parameters without a gradient, for which DDP would wait for ever."""
    named = network.named_parameters()
    unused = [name for name, parameter in named if parameter.requires_grad and parameter.grad is None]
    if unused and not find_unused:
        raise ConfigError(
            f"model: {', '.join(unused)} take no part in the loss, so that several ranks can't average their "
            "gradients. Set distributed.find_unused_parameters=on, use them in forward(), or remove them"
        )


class _WithScalars(nn.Module):
    """A network and a parameter of two numbers, whose gradient is what was set before the backward pass.

    All tensors of the output lead to that parameter: DDP may look for the parameters that the output depends on.
    """

    def __init__(self, network: nn.Module, device: torch.device, dtype: torch.dtype, find_unused: bool) -> None:
        super().__init__()
        self.network = network
        if find_unused:  # torch prints a warning where it looks for unused parameters and finds none
            self.unused = nn.Parameter(torch.zeros(1, device=device))
        self.scalars = nn.Parameter(torch.zeros(2, dtype=dtype, device=device))
        self.gradient: Tensor | None = None
        """The gradient of `scalars` in the next backward pass."""

    def forward(self, inputs: Nest) -> Nest:
        return map_tensors(self._attach, self.network(inputs))

    def _attach(self, output: Tensor) -> Tensor:
        return _WithGradient.apply(output, self.scalars, self) if output.requires_grad else output

    def take_gradient(self) -> Tensor | None:
        """Return the gradient once, to the first of the tensors that lead to the parameter."""
        gradient, self.gradient = self.gradient, None
        return gradient


class _WithGradient(torch.autograd.Function):
    """A tensor unchanged, whose backward pass gives a parameter a gradient of its own."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, parameter: Tensor, owner: _WithScalars) -> Tensor:  # noqa: ARG004
        ctx.owner = owner
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], ctx.owner.take_gradient(), None


def _average_in_memory(memory: SharedMemory, bucket: dist.GradBucket) -> Future[Tensor]:  # type: ignore[name-defined]
    """Compute the mean over ranks, rounded as DDP does: each rank divides before the sum."""
    flat = bucket.buffer()
    memory.sum_(flat, 1 / memory.size)
    mean: Future[Tensor] = Future()
    mean.set_result(flat)
    return mean


def _average_as_bf16(_: None, bucket: dist.GradBucket) -> Future[Tensor]:  # type: ignore[name-defined]
    """Compute the mean over ranks, sent as bf16; float64 (the scalars, or parameters of that type) is not converted."""
    if bucket.buffer().dtype == torch.float64:
        return default_hooks.allreduce_hook(None, bucket)  # type: ignore[arg-type]
    return default_hooks.bf16_compress_hook(None, bucket)  # type: ignore[arg-type]
