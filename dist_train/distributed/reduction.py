"""How the gradients that ranks compute become the mean over the global batch, on every rank.

`Alone`   one process: its gradients are that mean already.
`Average` DistributedDataParallel over the ranks: equal to float tolerance at any number of ranks.
`Tree`    a fixed binary tree over virtual ranks: the same bits at any number of ranks.

With the gradients goes a note of three numbers that every rank has to know after each step, so that knowing them costs
no reduction of its own: the sum of losses over the global batch, how many ranks want to stop, and how many had no data.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from inspect import signature
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from dist_train.distributed.flat import FlatGradient, flat_gradient, kind, neighbours, places, views
from dist_train.distributed.shared_memory import SharedMemory
from dist_train.distributed.world import World
from dist_train.errors import ConfigError
from dist_train.settings.schema import Train

LOSS, STOPS, VOIDS = range(3)
"""Positions in a note."""
_NOTHING: AbstractContextManager[None] = nullcontext()

_ONE_BUCKET = 2**20  # MB, more than any: to meet once a step is fastest where sending is but a copy

# torch 2.15 has renamed the argument, and warns of the name that older ones know.
_SYNC_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in signature(DistributedDataParallel).parameters
)


def place_model(network: nn.Module, train: Train, memory_format: torch.memory_format, world: World) -> nn.Module:
    """Move the network to this rank's device and format, with batch normalisation over all ranks if it is wanted.

    A weight that is a part of a larger tensor becomes one of its own.

    Raises:
        ConfigError: `train.sync_batchnorm` on a CPU; or two weights lie in the same memory.
    """
    _check_not_tied(network)
    if train.sync_batchnorm and world.device.type != "cuda":
        raise ConfigError("train.sync_batchnorm is on, but torch has it for GPUs only, and this rank is on the CPU")
    if train.sync_batchnorm:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    # .to(memory_format=...) is missing from the stubs of nn.Module.to with a device.
    network = network.to(device=world.device, memory_format=memory_format)  # type: ignore[call-overload]
    for weight in network.parameters():
        dense = torch.empty_like(weight, device="meta")
        if dense.stride() != weight.stride():  # a part of something larger: its gradients can't lie as it does
            weight.data = torch.empty_like(weight).copy_(weight.detach())
    return network


def _check_not_tied(network: nn.Module) -> None:
    """Refuse weights that share memory without being one: moved to a device or laid side by side, they would part."""
    owners: dict[int, str] = {}
    for name, weight in network.named_parameters():
        other = owners.setdefault(weight.data_ptr(), name) if weight.numel() else name
        if other != name:
            raise ConfigError(
                f"model: {other} and {name} lie in the same memory but are two weights, so that an optimizer would "
                "change it twice; let both modules have the one nn.Parameter"
            )


class _Buffers:
    """Where a network's buffers are: a forward pass may put another tensor in the place of one."""

    def __init__(self, network: nn.Module, chosen: Callable[[Tensor], bool] = lambda _: True) -> None:
        self._places = [
            (module._buffers, name)
            for module in network.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None and chosen(buffer)
        ]

    def now(self) -> list[Tensor]:
        """The tensors that are buffers at the moment; one in several places is there as often."""
        return [buffers[name] for buffers, name in self._places]  # type: ignore[misc]


class Alone:
    """The gradients of one process, and what the other two have in common with it."""

    averaged_over = 1
    """What the sum of all ranks' gradients is divided by."""

    def __init__(self, model: nn.Module, network: nn.Module, world: World) -> None:
        """`model` is what a step calls: `network`, compiled perhaps."""
        self.model = model
        self._network = network
        self._weights = [weight for weight in network.parameters() if weight.requires_grad]
        dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
        self._yes_no = torch.tensor([0, 1], dtype=dtype, device=world.device).unbind()
        self.flats = self._laid_out(self._weights)
        """Where the gradients lie from the first step on."""
        self._said = (False, False)
        self._own_losses: list[Tensor] = []
        self._counted: list[Tensor] = []
        self.unused: list[nn.Parameter] = []
        """Weights that took no part in the pass of `settle`; they may in a later one."""
        self._all_buffers = _Buffers(network)
        self._before = [buffer.detach().clone() for buffer in self._all_buffers.now()]

    def begin(self, *, stop: bool, void: bool) -> None:
        """Before the first backward pass of a step: what this rank has to say to the others."""
        for flat in self.flats:
            flat.tensor.zero_()
        for weight in self.unused:
            weight.grad = None
        self._own_losses, self._counted = [], []
        self._said = (stop, void)

    def shard(self, counts: bool) -> AbstractContextManager[None]:  # noqa: ARG002
        """Around the backward passes of one shard; `counts`: whether it has any sample."""
        return _NOTHING

    def backward_pass(self, last: bool) -> AbstractContextManager[Any]:  # noqa: ARG002
        """Around one backward pass; the ranks' gradients come together in the last of a step."""
        return _NOTHING

    def noted(self, loss: Tensor, counts: bool) -> Tensor:
        """The loss [], whose value goes into the note if it `counts`."""
        value = loss.detach()
        self._own_losses.append(value)
        if counts:
            self._counted.append(value)
        return loss

    def is_own_loss_finite(self) -> bool:
        """Whether the losses of all of this rank's backward passes in the last step were numbers."""
        return all(bool(loss.isfinite()) for loss in self._own_losses)

    def is_void(self, note: Tensor) -> bool:  # noqa: ARG002
        """Whether some rank had no data, so that nobody makes the step; False where that is not known yet."""
        return False

    @torch.no_grad()
    def undo(self) -> None:
        """Give the buffers back what they held before the step: nobody makes it, and its forward passes don't count."""
        for buffer, before in zip(self._all_buffers.now(), self._before, strict=True):
            buffer.copy_(before)

    def _keep_buffers(self) -> None:
        if self._before:
            with torch.no_grad():
                torch._foreach_copy_(self._before, self._all_buffers.now())

    def finish(self) -> Tensor:
        """After the last backward pass: the note of all ranks, float [3]; the mean gradients lie in the weights."""
        return self._note()

    def _note(self) -> Tensor:
        """What this rank has to say: one operation, because a small network's step is short."""
        stop, void = self._said
        losses = self._counted
        total = losses[0] if len(losses) == 1 else sum(losses, self._yes_no[0])
        return torch.stack((total, self._yes_no[stop], self._yes_no[void]))

    def grad_norm(self) -> Tensor:
        """2-norm of the gradients over all weights, float []; from one tensor, because a call costs more than a sum."""
        late = [weight.grad for weight in self.unused if weight.grad is not None]
        if len(self.flats) == 1 and not late:
            return torch.linalg.vector_norm(self.flats[0].tensor)  # type: ignore[no-any-return]
        norms = torch._foreach_norm([*(flat.tensor for flat in self.flats), *late])
        return torch.linalg.vector_norm(torch.stack(norms))  # type: ignore[no-any-return]

    def settle(self, images: Tensor, unused: Collection[str] | None = None) -> None:
        """Find out which weights take part in the output, by a pass over `images` whose effects are undone.

        The others have no gradient and are left alone; in a flat one they would have zeros, and decay.

        Args:
            unused: names of the weights that have taken no part at an earlier start: which do may depend on the values
                of others.
        """
        for weight in self._weights:
            weight.grad = None
        self._keep_buffers()
        self._network(images).sum().backward()
        self.undo()
        self.unused = [weight for weight in self._weights if weight.grad is None]
        if unused is not None:
            self.unused = [weight for name, weight in self._network.named_parameters() if name in unused]
        left_out = set(self.unused)
        self.flats = self._laid_out([weight for weight in self._weights if weight not in left_out])

    def _laid_out(self, weights: list[nn.Parameter]) -> list[FlatGradient]:
        kinds = dict.fromkeys(map(kind, weights))
        return [flat_gradient([weight for weight in weights if kind(weight) == each]) for each in kinds]


class Average(Alone):
    """The mean over ranks, which DistributedDataParallel takes while the backward pass goes on.

    The note rides along as the gradient of a parameter of its own.

    Buffers are not sent at each forward pass: only rank 0's are ever used, and `share_buffers` sends those where they
    are read. So batch normalisation is DDP's (statistics of a rank's own share, running statistics of rank 0) at no
    cost a step.
    """

    def __init__(
        self,
        model: nn.Module,
        network: nn.Module,
        world: World,
        images: Tensor,
        memory: SharedMemory | None = None,
        compression: Literal["none", "bf16"] = "none",
    ) -> None:
        """Wrap `model` and take a first pass over `images`, [B, C, H, W], whose effects are undone.

        Args:
            memory: what the ranks share, where gradients are to be added there; then nothing is compressed.

        Raises:
            ConfigError: some weights of the network take no part in its output.
        """
        self.averaged_over = world.size
        options: dict[str, Any] = {_SYNC_BUFFERS: False, "gradient_as_bucket_view": True}
        if world.device.type == "cuda":
            options["device_ids"] = [world.device.index]
        if memory:
            options["bucket_cap_mb"] = _ONE_BUCKET
        is_compressed = compression == "bf16" and memory is None
        with_rider = _WithRider(model, world.device, torch.float64 if is_compressed else None)
        self._rider = with_rider.rider
        self._ddp = DistributedDataParallel(with_rider, **options)
        if memory:
            self._ddp.register_comm_hook(memory, _mean_in_memory)
        elif is_compressed:
            self._ddp.register_comm_hook(None, _mean_as_bf16)
        self._may_be_void = world.device.type == "cpu"  # elsewhere the note is read after the step has been made
        super().__init__(self._ddp, network, world)
        self._settle_buckets(images, world)
        self.flats = neighbours(self._weights)

    def _laid_out(self, weights: list[nn.Parameter]) -> list[FlatGradient]:  # noqa: ARG002
        return []  # where DDP lays them is known once its buckets have settled

    def begin(self, *, stop: bool, void: bool) -> None:
        for weight in (*self._weights, self._rider):
            weight.grad = None
        if self._may_be_void:
            self._keep_buffers()
        self._own_losses = []
        self._said = (stop, void)

    def backward_pass(self, last: bool) -> AbstractContextManager[Any]:
        return _NOTHING if last else self._ddp.no_sync()

    def noted(self, loss: Tensor, counts: bool) -> Tensor:
        value = loss.detach()
        self._own_losses.append(value)
        self._counted = [value] if counts else []
        loss = _Ride.apply(loss, self._rider, self._note().to(self._rider.dtype))
        self._said = (False, False)  # the gradients of several passes are added up
        return loss

    def is_void(self, note: Tensor) -> bool:
        return self._may_be_void and bool(note[VOIDS])

    def finish(self) -> Tensor:
        note = torch.mul(self._rider.grad, self.averaged_over)  # type: ignore[arg-type]
        return note.to(self._yes_no[0].dtype)

    def _settle_buckets(self, images: Tensor, world: World) -> None:
        """Let DDP sort its buckets before the first step, by passes whose effects are undone.

        DDP sorts them after its first backward pass, by the order in which gradients became ready. With three or more
        ranks the order of a sum changes its bits, so the first step after a resume would differ from the same step of
        an undisturbed run. With a pass before the first step of every start, both have sorted buckets.
        """
        buffers = [buffer.detach().clone() for buffer in self._all_buffers.now()]
        for _ in range(2):  # the sorting happens at the start of the second
            self.begin(stop=False, void=False)
            self.noted(self.model(images).sum(), counts=True).backward()  # type: ignore[no-untyped-call]
            with world.agreement():  # all ranks find the same, and one is to say it
                self._check_all_used()
        with torch.no_grad():
            for buffer, before in zip(self._all_buffers.now(), buffers, strict=True):
                buffer.copy_(before)

    def _check_all_used(self) -> None:
        """DDP would wait for their gradients, and name numbers only."""
        weights = self._network.named_parameters()
        unused = [name for name, weight in weights if weight.requires_grad and weight.grad is None]
        if unused:
            raise ConfigError(
                f"model: {', '.join(unused)} take no part in the output, so that several ranks can't average their "
                "gradients. Use them in forward(), remove them, or set requires_grad to False"
            )


class _WithRider(nn.Module):
    """A network beside a parameter of three numbers, which no forward pass uses."""

    def __init__(self, network: nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.network = network
        self.rider = nn.Parameter(torch.zeros(3, dtype=dtype, device=device))

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)  # type: ignore[no-any-return]


class _Ride(torch.autograd.Function):
    """A loss as it was; in the backward pass `note` becomes the gradient of `rider`."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, rider: Tensor, note: Tensor) -> Tensor:  # noqa: ARG004
        ctx.note = note
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], ctx.note, None


def _mean_in_memory(memory: SharedMemory, bucket: dist.GradBucket) -> Future[Tensor]:  # type: ignore[name-defined]
    """The mean over ranks, rounded where DDP would round it: each rank's part is divided before it is added."""
    flat = bucket.buffer()
    memory.sum_(flat, 1 / memory.size)
    mean: Future[Tensor] = Future()
    mean.set_result(flat)
    return mean


def _mean_as_bf16(_: None, bucket: dist.GradBucket) -> Future[Tensor]:  # type: ignore[name-defined]
    """The mean over ranks of a bucket in bf16; of float64 as it is: the rider's, and of weights that have that type."""
    if bucket.buffer().dtype == torch.float64:
        return default_hooks.allreduce_hook(None, bucket)  # type: ignore[arg-type]
    return default_hooks.bf16_compress_hook(None, bucket)  # type: ignore[arg-type]


class Tree(Alone):
    """Sums in one fixed binary tree over the shards of a global batch, whichever ranks compute them.

    Rank r of W computes shards [r S/W, (r+1) S/W) one after another and adds them pair by pair; then ranks whose
    numbers differ in one bit exchange their sums, the lowest bit first. A sum of two is the same in either order, so
    all ranks end with the bits that one rank alone would have. Floating-point buffers (running statistics) are the mean
    over shards, each having started from those before the step. The idea of virtual ranks: EasyScale (Li et al., SC23).
    """

    def __init__(self, model: nn.Module, network: nn.Module, world: World, memory: SharedMemory | None = None) -> None:
        """`memory` is what the ranks share, if they do: its sums have the bits of those that are exchanged."""
        self._floating = _Buffers(network, lambda buffer: buffer.is_floating_point())
        super().__init__(model, network, world)
        self._world, self._memory = world, memory
        self._sums: list[tuple[int, Tensor]] = []

    def _laid_out(self, weights: list[nn.Parameter]) -> list[FlatGradient]:
        """One tensor for gradients, buffers, the note, and the number of shards that have samples."""
        if others := {weight.dtype for weight in weights} - {self._yes_no[0].dtype}:
            raise ConfigError(
                f"model: it has weights of {', '.join(map(str, others))}, and run.reproducible=bitwise adds up "
                f"{self._yes_no[0].dtype} only; give all weights that type, or use run.reproducible=elastic"
            )
        buffers = self._floating.now()
        starts, end = places([*weights, *buffers])
        self._flat = torch.zeros(end + 4, dtype=self._yes_no[0].dtype, device=self._yes_no[0].device)
        parts = views(self._flat, [*weights, *buffers], starts)
        self._gradients, self._statistics = parts[: len(weights)], parts[len(weights) :]
        self._tail = self._flat[-4:]
        return [FlatGradient(self._flat[: places(weights)[1]], weights, starts[: len(weights)])]

    def begin(self, *, stop: bool, void: bool) -> None:
        self._own_losses, self._sums = [], []
        self._said = (stop, void)
        self._keep_buffers()
        for weight, gradient in zip(self._weights, self._gradients, strict=True):
            weight.grad = gradient

    @contextmanager
    def shard(self, counts: bool) -> Iterator[None]:
        self._flat.zero_()
        self.undo()  # each shard starts from the buffers before the step
        yield
        if counts:
            self._tail[3] = 1
            for view, buffer in zip(self._statistics, self._floating.now(), strict=True):
                view.copy_(buffer.detach())
        self._add(self._flat.clone())

    def noted(self, loss: Tensor, counts: bool) -> Tensor:
        self._own_losses.append(loss.detach())
        if counts:
            self._tail[LOSS] += self._own_losses[-1]
        return loss

    def is_void(self, note: Tensor) -> bool:
        return note.device.type == "cpu" and bool(note[VOIDS])

    def finish(self) -> Tensor:
        total = self._sums[0][1] if self._sums else torch.zeros_like(self._flat)  # a rank without data has no shards
        stop, void = self._said
        total[-3], total[-2] = float(stop), float(void)
        self._flat.copy_(self._sum_of_ranks(total))
        with torch.no_grad():
            for buffer, view in zip(self._floating.now(), self._statistics, strict=True):
                buffer.copy_(view / self._tail[3])
        return self._tail[:3].clone()

    def _sum_of_ranks(self, total: Tensor) -> Tensor:
        if self._memory:
            self._memory.sum_(total)
            return total
        distance = 1
        while distance < self._world.size:
            total = total + self._world.exchange(total, self._world.rank ^ distance)
            distance *= 2
        return total

    def _add(self, leaf: Tensor) -> None:
        """Add the next shard's sum to the tree: sums of equally many shards are added at once."""
        level = 0
        while self._sums and self._sums[-1][0] == level:
            leaf = self._sums.pop()[1] + leaf
            level += 1
        self._sums.append((level, leaf))


def share_buffers(network: nn.Module, world: World) -> None:
    """Give every rank the buffers of rank 0: before they are evaluated or saved."""
    world.broadcast_(list(network.buffers()))
