"""The state of a training: what a step changes, and what a checkpoint holds so that the next step is the same."""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dist_train.checkpoint import serialization
from dist_train.checkpoint.serialization import Files
from dist_train.checkpoint.snapshot import take_snapshot
from dist_train.distributed.buffers import broadcast_buffers
from dist_train.distributed.world import World
from dist_train.errors import ConfigError
from dist_train.execution.auto_settings import AutoSettings
from dist_train.execution.cpu_layers import use_fast_cpu_layers
from dist_train.execution.gpu import ALIGNMENT
from dist_train.execution.small_convolutions import protect_small_convolutions
from dist_train.models.freeze import find_frozen, set_frozen
from dist_train.monitoring.metrics import LossWindow
from dist_train.optim.build import begin_momentum, build_optimizer, check_storable, make_step
from dist_train.optim.ema import ParameterAverage
from dist_train.optim.load import load_optimizer
from dist_train.optim.lr_schedule import LrSchedule
from dist_train.optim.plateau import ends_early, find_lr_factor
from dist_train.settings.schema import Config
from dist_train.settings.tasks import describe_number, find_monitor

_ACCURACY = {"name": "accuracy", "mode": "max"}
"""The number by which earlier versions chose the best checkpoint."""
_log = logging.getLogger(__name__)


class TrainState:
    """Network, optimizer and all else that changes from step to step.

    `network` is the plain module, whose state_dict is saved.
    """

    def __init__(
        self,
        config: Config,
        network: nn.Module,
        auto_settings: AutoSettings,
        world: World,
        checkpoint: Files | None = None,
        best_split: str = "test",
    ) -> None:
        """Move `network` to this rank's device, and continue from `checkpoint` if there is one.

        Args:
            best_split: the split whose evaluations choose the best checkpoint.

        Raises:
            ConfigError: a setting does not go with the device or the network.
            CheckpointError: the checkpoint is of another network or optimizer.
        """
        self.auto_settings = auto_settings
        self.network = move_network(network, auto_settings.memory_format, world)
        use_fast_cpu_layers(self.network)
        protect_small_convolutions(self.network)
        self.frozen = find_frozen(config.model, self.network)
        """Parameters that are not trained, or not from the first epoch on."""
        set_frozen(self.network, self.frozen, epoch=0)
        later = {parameter for parameter, end in self.frozen.items() if end is not None}
        self.optimizer = build_optimizer(config.optim, self.network, later)
        self.scaler = torch.amp.GradScaler(world.device.type) if auto_settings.precision == "fp16" else None
        self.average = None
        if config.train.ema_decay is not None:
            self.average = ParameterAverage(self.network, config.train.ema_decay)
        self.step = 0
        """Finished optimizer steps."""
        self.window = LossWindow()
        self.last_loss: float | None = None
        self.monitor = find_monitor(config)
        """The number of an evaluation that selects the best."""
        self.best_value: float | None = None
        """Its best value so far."""
        self.best_step: int | None = None
        number = describe_number(config, self.monitor.name)
        self._best_of = {**self.monitor._asdict(), "split": best_split, "number": number}
        self.evaluated_step = 0
        """The newest step whose evaluation is finished, if one was due."""
        self.evaluations: list[float] = []
        """That number of all evaluations so far that were due during training, oldest first."""
        self.lr_factor = 1.0
        """The factor of `optim.plateau` on all learning rates."""
        self.ends_early = False
        """Whether `train.early_stopping` ends the run."""
        self._plateau, self._early_stopping = config.optim.plateau, config.train.early_stopping
        self._world = world
        self._max_grad_norm = config.train.max_grad_norm
        self._measures_norm = config.log.ledger or self._max_grad_norm is not None
        if checkpoint:
            self._load(checkpoint)
        self._optimizer_name = config.optim.name
        self._optimizer_step = make_step(self.optimizer, self._optimizer_name)

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return self._world.device

    def unfreeze(self, epoch: int) -> None:
        """Train the parameters that `model.unfreeze` names for this number of finished epochs or less."""
        set_frozen(self.network, self.frozen, epoch)
        begin_momentum(self.optimizer)

    def set_learning_rates(self, rates: LrSchedule) -> float:
        """Set the learning rates of the next step; return that of parameters without a group."""
        return rates.set_rates(self.optimizer, self.step, self.lr_factor)

    def autocast(self) -> AbstractContextManager[Any]:
        """Context of a forward pass in the precision of this run."""
        dtype = self.auto_settings.autocast_dtype
        return nullcontext() if dtype is None else torch.autocast(self._world.device.type, dtype)

    def scale(self, loss: Tensor) -> Tensor:
        """Return the loss, in fp16 multiplied so that small gradients do not become zero."""
        return self.scaler.scale(loss) if self.scaler else loss

    def clip_gradients(self, gradients: Sequence[Tensor]) -> Tensor | None:
        """Unscale the gradients and clip them to `train.max_grad_norm`.

        Returns:
            Their 2-norm before, float []; None if neither the ledger nor clipping needs it.
        """
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        if not self._measures_norm:
            return None
        norm = nn.utils.get_total_norm(gradients)
        if self._max_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(self.network.parameters(), self._max_grad_norm, norm)
        return norm

    def update_parameters(self) -> None:
        """Make the optimizer's step, and update the moving average."""
        if self.scaler:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self._optimizer_step()
        if self.average:
            self.average.update()

    def is_best(self, value: float) -> bool:
        """Whether this is better than all before; if so, remember it. NaN never is."""
        if not self.monitor.is_better(value, self.best_value):
            return False
        self.best_value, self.best_step = value, self.step
        return True

    def record_evaluation(self, value: float) -> None:
        """Record the result of an evaluation during training; update the learning rate and early stopping."""
        self._set_evaluations([*self.evaluations, value])

    def _set_evaluations(self, values: list[float]) -> None:
        self.evaluations = values
        self.lr_factor = find_lr_factor(values, self._plateau, self.monitor.higher_is_better)
        self.ends_early = ends_early(values, self._early_stopping, self.monitor.higher_is_better)

    @property
    def evaluated_network(self) -> nn.Module:
        """The network that evaluations use: the moving average, if there is one."""
        return self.average.network if self.average else self.network

    def broadcast_buffers(self) -> None:
        """Give every rank the buffers of rank 0, before they are evaluated or saved."""
        broadcast_buffers(self.network, self._world)
        if self.average:
            broadcast_buffers(self.average.network, self._world)

    def checkpoint_files(self, steps_per_epoch: int, about: dict[str, Any]) -> Files:
        """Return what a checkpoint holds, by file name. Every rank calls this; only rank 0 gets the content.

        Args:
            about: what `training.pt` says of the run: settings, choices, versions.
        """
        self.broadcast_buffers()
        window = self.window.state_dict()
        if window["samples"]:
            self.last_loss = window["loss_sum"] / window["samples"]
        if not self._world.is_main:
            return {}
        check_storable(self.optimizer, self._optimizer_name)
        files = {"model.pt": self.network.state_dict()}
        if self.average:
            files["average.pt"] = self.average.network.state_dict()
        files["training.pt"] = {
            "epoch": self.step // steps_per_epoch,
            "step": self.step,
            "optimizer_state_dict": self.optimizer.state_dict(),
            "scaler_state_dict": self.scaler.state_dict() if self.scaler else None,
            "loss": self.last_loss,
            "window": window,
            "best_value": self.best_value,
            "best_step": self.best_step,
            "best_of": self._best_of,
            "evaluated_step": self.evaluated_step,
            "evaluations": self.evaluations,
            **about,
        }
        return take_snapshot(files)

    def _load(self, files: Files) -> None:
        saved = files["training.pt"]
        source = Path(saved.get("source", ""))
        serialization.load_weights(self.network, files["model.pt"], str(source / "model.pt"))
        if self.average:
            average = "average.pt" if "average.pt" in files else "model.pt"
            serialization.load_weights(self.average.network, files[average], str(source / average))
        load_optimizer(self.optimizer, saved["optimizer_state_dict"], saved["step"], str(source / "training.pt"))
        if self.scaler and saved["scaler_state_dict"]:
            self.scaler.load_state_dict(saved["scaler_state_dict"])
        self.window.load_state_dict(saved["window"])
        self.step, self.last_loss = saved["step"], saved["loss"]
        self.evaluated_step = saved["evaluated_step"]
        if {**self._best_of, **(saved.get("best_of") or _ACCURACY)} == self._best_of:  # earlier versions have less
            self.best_value, self.best_step = saved["best_value"], saved["best_step"]
            self._set_evaluations(saved.get("evaluations", []))  # earlier versions have none
        elif saved["best_step"] is not None:
            _log.info(
                "the best checkpoint is chosen by another number than before, %s; it and what optim.plateau and "
                "train.early_stopping have counted start again",
                " ".join(self._best_of.values()),
            )


def move_network(network: nn.Module, memory_format: torch.memory_format, world: World) -> nn.Module:
    """Move the network to this rank's device and memory format; raises ConfigError if two parameters share memory."""
    _check_not_tied(network)
    # .to(memory_format=...) is missing from the stubs of nn.Module.to with a device.
    network = network.to(device=world.device, memory_format=memory_format)  # type: ignore[call-overload]
    for parameter in network.parameters():
        dense = torch.empty_like(parameter, device="meta")
        # A part of a larger tensor: fused updates need one block of memory, compiled kernels one that is aligned.
        if dense.stride() != parameter.stride() or parameter.data_ptr() % ALIGNMENT:
            parameter.data = torch.empty_like(parameter).copy_(parameter.detach())
    return network


def _check_not_tied(network: nn.Module) -> None:
    """Refuse parameters that share memory without being the same object: on another device they would be separate."""
    owners: dict[int, str] = {}
    for name, parameter in network.named_parameters():
        other = owners.setdefault(parameter.data_ptr(), name) if parameter.numel() else name
        if other != name:
            raise ConfigError(
                f"model: {other} and {name} share memory but are two parameters, so that an optimizer would change it "
                "twice; let both modules have the one nn.Parameter"
            )
