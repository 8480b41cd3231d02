"""The state of a training: what a step changes, and what a checkpoint has to hold for the next step to be the same."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dist_train.checkpoint import serialization
from dist_train.checkpoint.serialization import Files, on_tensors
from dist_train.data.batches import Batch, Shard
from dist_train.distributed import reduction
from dist_train.distributed.shared_memory import SharedMemory
from dist_train.distributed.world import World
from dist_train.errors import CheckpointError
from dist_train.execution.auto_settings import Choices, is_one_graph
from dist_train.execution.cpu_layers import use_fast_cpu_layers
from dist_train.monitoring.metrics import LossWindow
from dist_train.optim.optimizer import (
    Average,
    FlatUpdate,
    allow_late_weights,
    begin_momentum,
    build_optimizer,
    update_of,
)
from dist_train.seeds import seed_step
from dist_train.settings.schema import Config

if TYPE_CHECKING:
    from dist_train.execution.whole_step import WholeStep


class Training:
    """Network, optimizer and all else that changes from step to step.

    `network` is the plain module whose state_dict is saved; `model` is what a step calls: the same, wrapped for this
    world.
    """

    def __init__(
        self, config: Config, network: nn.Module, choices: Choices, world: World, memory: SharedMemory | None = None
    ) -> None:
        """`memory` is used if it was chosen. Raises ConfigError where a setting does not go with device or network."""
        self.config = config.train
        self.seed = config.run.seed
        self.shards = config.shards
        self._optim = config.optim
        self.choices = choices
        self.world = world
        self._memory = memory if choices.shared_memory else None
        self._compression = config.distributed.compression
        if config.train.compile != "off":
            from dist_train.execution import whole_step

            whole_step.prepare(world.device)
        self.network = reduction.place_model(network, config.train, choices.memory_format, world)
        use_fast_cpu_layers(self.network)
        self.scaler = torch.amp.GradScaler(world.device.type) if choices.precision == "fp16" else None
        self.optimizer = build_optimizer(
            config.optim, self.network, compiled=self._compiles_update, scaled=self.scaler is not None
        )
        self.average = Average(self.network, config.train.ema_decay) if config.train.ema_decay is not None else None
        self.window = LossWindow()
        self.step = 0
        self.grad_norm: Tensor | None = None
        """What `update` has returned in the newest step that was made by itself."""
        self._measures_norm = config.log.ledger or config.train.max_grad_norm is not None
        self.last_loss: float | None = None
        self.best_accuracy: float | None = None
        self.best_step: int | None = None
        self.evaluated_step = 0
        """The newest step whose evaluation is finished, if one was due."""
        self.reduction = reduction.Alone(self.network, self.network, world)
        self._loss_weights: dict[tuple[int, bool], Tensor] = {}
        self._update: Callable[[], object] = update_of(self.optimizer)
        self._compiled_update: Callable[[], object] | None = None
        self.whole_step: WholeStep | None = None
        """Every step but the first as one graph, if that is compiled."""
        self._flat_update: FlatUpdate | None = None
        self._unused_before: list[str] | None = None

    def start(self, samples: int, shape: tuple[int, int, int]) -> None:
        """Compile and wrap for this world, for backward passes over up to `samples` images of `shape`."""
        called = self.network
        if self.config.compile == "model":
            # Fixed shapes: a graph made for all sizes would depend on which size came first, and so on the resume.
            # A module around the network: in torch 2.11 `Module.compile` leaves it as it was.
            called = torch.compile(self.network, mode=self.config.compile_mode, dynamic=False)  # type: ignore[assignment]
        seed_step(self.seed, 0, 0, self.world.device)  # a network may draw which weights take part in the first passes
        with self._autocast():
            self.reduction = self._reduction(called, samples, shape)
        if self.reduction.unused:
            allow_late_weights(self.optimizer)
        self._flat_update = FlatUpdate(self.optimizer, self.reduction.flats)
        if self.scaler and isinstance(self.optimizer, torch.optim.SGD):
            begin_momentum(self.optimizer)
        if self.config.compile == "step":  # type: ignore[comparison-overlap]
            self._compile_step()

    def _compile_step(self) -> None:
        """As one graph, or apart: the loss with the network, and the update, of which a scaler decides itself."""
        from dist_train.execution.whole_step import WholeStep, compiled

        one_graph = is_one_graph(self.config, self.choices.precision, self.world, self.shards)
        if one_graph and not self.reduction.unused:  # what is kept for those would be made inside of the graph
            (group,) = self.optimizer.param_groups
            self.whole_step = WholeStep(self.loss_sum, self.reduction.flats, self.update, group["lr"])
        else:
            self.loss_sum = compiled(self.loss_sum)  # type: ignore[method-assign]
            if self._compiles_update:
                self._compiled_update = compiled(self.optimizer.step)

    def _reduction(self, model: nn.Module, samples: int, shape: tuple[int, int, int]) -> reduction.Alone:
        if self.shards:
            return reduction.Tree(model, self.network, self.world, self._memory)
        if self.world.size > 1:
            # A graph is compiled for the shape of the step's own; without one, any will do.
            images = self._blank(max(2, samples) if self.config.compile == "model" else 2, shape)
            return reduction.Average(model, self.network, self.world, images, self._memory, self._compression)
        # With a process group or without: the bits must not depend on how it was started.
        alone = reduction.Alone(model, self.network, self.world)
        alone.settle(self._blank(2, shape), self._unused_before)  # batch normalisation takes no less
        return alone

    def _blank(self, samples: int, shape: tuple[int, int, int]) -> Tensor:
        images = torch.zeros(samples, *shape, device=self.world.device)
        return images.contiguous(memory_format=self.choices.memory_format)

    @property
    def _compiles_update(self) -> bool:
        return self.config.compile == "step" and self.scaler is None  # type: ignore[comparison-overlap]

    def set_lr(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def cut(self, shard: Shard) -> list[tuple[Tensor, Tensor]]:
        """The shard in equal pieces of at most `train.micro_batch`, one backward pass each."""
        images, labels = shard.images, shard.labels
        if len(labels) <= (self.config.micro_batch or len(labels)) and shard.share:
            return [(images, labels)]
        if self.config.sync_batchnorm and shard.share == 0:
            # The statistics are over all ranks then, and would count a stand-in; torch takes an empty batch for none.
            images, labels = images[:0], labels[:0]
        pieces = -(-len(labels) // (self.config.micro_batch or len(labels))) if len(labels) else 1
        return list(zip(torch.tensor_split(images, pieces), torch.tensor_split(labels, pieces), strict=True))

    def loss_weight(self, shard: Shard, count: int) -> Tensor:
        """What a sum of losses is multiplied by in the gradient, float []: ranks averaged over / samples of the batch.

        It is the gradient that the backward pass starts from, and kept on the device: there are few sizes of batches.
        """
        key = (count, shard.share > 0)
        if key not in self._loss_weights:
            weight = self.reduction.averaged_over / count if shard.share else 0.0
            dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
            self._loss_weights[key] = torch.tensor(weight, dtype=dtype, device=self.world.device)
        return self._loss_weights[key]

    def loss_sum(self, images: Tensor, labels: Tensor) -> Tensor:
        """Sum of the cross-entropies of a batch, float32 []."""
        with self._autocast():
            return functional.cross_entropy(
                self.reduction.model(images), labels, reduction="sum", label_smoothing=self.config.label_smoothing
            )

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss, in fp16 times the factor that keeps small gradients above zero."""
        return self.scaler.scale(loss) if self.scaler else loss

    def update(self) -> Tensor | None:
        """Change the weights by the gradients that lie there.

        Returns:
            Their 2-norm over all weights before they are clipped, float []; None where nobody asks for it.
        """
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        norm = None
        if self._measures_norm:
            norm = self.reduction.grad_norm()
            if self.config.max_grad_norm is not None:
                weights = self.optimizer.param_groups[0]["params"]
                nn.utils.clip_grads_with_norm_(weights, self.config.max_grad_norm, norm)
        if self.scaler:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        elif self._compiled_update and self.step:
            self._compiled_update()
        else:  # the first makes what the optimizer keeps: a graph of it would serve once
            self._update()
        if self.average:
            self.average.update()
        return norm

    @property
    def steps_together(self) -> int:
        """How many steps `several` may take."""
        return self.choices.steps_together if self.whole_step else 1

    def several(self, batches: Sequence[Batch], lrs: Sequence[float]) -> tuple[list[float], Sequence[float | None]]:
        """Make a step on each of these batches, in one call; returns the sums of losses and the norms of `update`.

        Raises:
            RuntimeError: there is no `whole_step`.
        """
        if self.whole_step is None:
            raise RuntimeError("nothing is compiled, so that steps are made one by one")
        self.reduction.begin(stop=False, void=False)
        shards = [shard for batch in batches for shard in batch.shards]
        losses, norms = self.whole_step.several(
            [shard.images for shard in shards],
            [shard.labels for shard in shards],
            self.loss_weight(shards[0], batches[0].count),
            torch.tensor(lrs),
        )
        self.reduction.noted(losses.sum(), counts=True)  # whose fault it is if one of them is no number
        return losses.tolist(), [None] * len(lrs) if norms is None else norms.tolist()

    def is_best(self, accuracy: float) -> bool:
        """Whether this is better than all before; remembers it if so."""
        if self.best_accuracy is not None and accuracy <= self.best_accuracy:
            return False
        self.best_accuracy, self.best_step = accuracy, self.step
        return True

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = self.choices.autocast_dtype
        return nullcontext() if dtype is None else torch.autocast(self.world.device.type, dtype)

    @property
    def evaluated(self) -> nn.Module:
        """The network that an evaluation is of: the average, where there is one."""
        return self.average.network if self.average else self.network

    def share_buffers(self) -> None:
        """Make rank 0's buffers everybody's, before they are evaluated or saved."""
        reduction.share_buffers(self.network, self.world)
        if self.average:
            reduction.share_buffers(self.average.network, self.world)

    def files(self, steps_per_epoch: int, about: dict[str, Any]) -> Files:
        """What a checkpoint holds, by the names of its files; every rank has to call this, and the first gets them.

        Args:
            about: what else `training.pt` is to say: settings, choices, versions.
        """
        self.share_buffers()
        window = self.window.state_dict()
        if window["samples"]:
            self.last_loss = window["loss_sum"] / window["samples"]
        if not self.world.is_main:
            return {}
        files = {"model.pt": _copied(self.network.state_dict())}
        if self.average:
            files["average.pt"] = _copied(self.average.network.state_dict())
        files["training.pt"] = {
            "epoch": self.step // steps_per_epoch,
            "step": self.step,
            "optimizer_state_dict": _copied((self._flat_update or self.optimizer).state_dict()),
            "scaler_state_dict": self.scaler.state_dict() if self.scaler else None,
            "loss": self.last_loss,
            "window": window,
            "best_accuracy": self.best_accuracy,
            "best_step": self.best_step,
            "evaluated_step": self.evaluated_step,
            "unused": self._unused_names(),
            **about,
        }
        return files

    def _unused_names(self) -> list[str]:
        """Weights that were left to themselves at the start: a resumed run has to leave the same ones."""
        unused = set(self.reduction.unused)
        return [name for name, weight in self.network.named_parameters() if weight in unused]

    def restore(self, files: Files) -> None:
        """Take over a checkpoint's content.

        Raises:
            CheckpointError: it is of another network or optimizer.
        """
        saved = files["training.pt"]
        serialization.load_weights(self.network, files["model.pt"], "model.pt")
        if self.average:
            serialization.load_weights(self.average.network, files.get("average.pt", files["model.pt"]), "average.pt")
        try:
            self.optimizer.load_state_dict(_as_now(saved["optimizer_state_dict"], self.optimizer))
        except (ValueError, KeyError) as error:
            raise CheckpointError(f"training.pt: its optimizer does not fit: {error}") from error
        if self.scaler and saved["scaler_state_dict"]:
            self.scaler.load_state_dict(saved["scaler_state_dict"])
        self.window.load_state_dict(saved["window"])
        self.evaluated_step = saved["evaluated_step"]
        self._unused_before = saved.get("unused")  # no checkpoint of before there was such a list has it
        self.step, self.last_loss = saved["step"], saved["loss"]
        self._complete_state()
        self.best_accuracy, self.best_step = saved["best_accuracy"], saved["best_step"]

    def _complete_state(self) -> None:
        """Add what a changed argument (`amsgrad`, `centered`, a momentum) keeps for each weight and was not saved.

        Which that is, one step of the same optimizer on a weight of its own tells; torch starts all of it at zero.
        """
        probe = nn.Linear(1, 1, bias=False)
        optimizer = build_optimizer(self._optim, probe)
        probe.weight.grad = torch.zeros_like(probe.weight)
        update_of(optimizer)()
        kept = optimizer.state[probe.weight]
        names = [name for name, value in kept.items() if isinstance(value, Tensor) and value.shape == (1, 1)]
        (group,) = self.optimizer.param_groups
        # A weight that has had no gradient yet has no state, by which torch knows it; SGD's has no more than momentum,
        # so that none has any where there was no momentum before.
        has_all = names and self.step > 0 and set(names) == set(kept) and not self.optimizer.state
        for weight in group["params"] if has_all else list(self.optimizer.state):
            state = self.optimizer.state[weight]
            state.update({name: torch.zeros_like(weight) for name in names if state.get(name) is None})


def _as_now(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The saved tensors under today's arguments: a changed weight decay or momentum is what the user asked for."""
    groups = [
        {**now, "params": before["params"]}
        for before, now in zip(saved["param_groups"], optimizer.state_dict()["param_groups"], strict=True)
    ]
    return {**saved, "param_groups": groups}


def _copied(content: dict[str, Any]) -> dict[str, Any]:
    """A copy on the CPU, tensors in the memory format that they have: in another it would take twice as long."""
    copied: dict[str, Any] = on_tensors(lambda tensor: tensor.detach().to("cpu", copy=True), content)
    return copied
