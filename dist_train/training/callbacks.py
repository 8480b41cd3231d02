"""Callbacks: the user's methods that are called between the steps of a training; see `own_code/README.md`.

Every rank has its own object of each class and calls its methods after the same steps: they may use collectives;
`run.is_main` is true on rank 0 alone. What a callback changes is its own: no promise about samples or bits covers it.
"""

import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dist_train.checkpoint.schema import DEEPEST, is_dense
from dist_train.checkpoint.serialization import Files
from dist_train.data import Batch
from dist_train.data.batches import Pass
from dist_train.distributed.reduction import LOSS_SUM
from dist_train.errors import ConfigError
from dist_train.own_code.load import call, shown_as_own, takes
from dist_train.own_code.reference import is_same_code
from dist_train.settings.schedule import Schedule
from dist_train.settings.schema import Config, OwnCallback
from dist_train.system.escape import escape
from dist_train.training.state import TrainState

_log = logging.getLogger(__name__)

Method = Literal["on_start", "on_step", "on_evaluate", "on_checkpoint", "on_end"]
_ARGUMENTS: dict[Method, tuple[str, ...]] = {
    "on_start": ("run",),
    "on_step": ("run", "step"),
    "on_evaluate": ("run", "evaluation"),
    "on_checkpoint": ("run", "path"),
    "on_end": ("run", "is_done"),
}
"""What each method is called with, by position."""
_PLAIN = "a state may have numbers, text, tensors, lists and dictionaries"


@dataclass(frozen=True)
class RunView:
    """A run as callbacks see it."""

    config: Config
    run_dir: Path
    """The run's directory on rank 0's machine; other machines may not have it."""
    rank: int
    world_size: int
    total_steps: int
    """Steps of the whole run."""
    _state: TrainState
    _schedule: Schedule

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which alone writes files."""
        return self.rank == 0

    @property
    def step(self) -> int:
        """Steps made so far, over all starts of the run."""
        return self._state.step

    @property
    def epoch(self) -> int:
        """Complete passes over the training samples so far."""
        return self._schedule.epoch(self.step)

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return self._state.device

    @property
    def network(self) -> nn.Module:
        """The network that is trained."""
        return self._state.network

    @property
    def evaluated_network(self) -> nn.Module:
        """The network that evaluations use: the moving average with `train.ema_decay`, else the one that is trained."""
        return self._state.evaluated_network

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self._state.optimizer


@dataclass(frozen=True, slots=True)
class StepView:
    """The step that was just made."""

    lr: float
    """Learning rate of parameters without a group."""
    grad_norm: Tensor | None
    """Norm of the gradient before clipping, float []; None where the run does not measure it."""
    _batch: Batch
    _scalars: Tensor

    @property
    def loss(self) -> Tensor:
        """Mean loss of the global batch, float [] on the rank's device: to read its value waits for a GPU."""
        return self._scalars[LOSS_SUM] / self._batch.count

    @property
    def samples(self) -> Tensor:
        """Numbers of all samples of the global batch in the training split, int64 [count], on the CPU."""
        return self._batch.samples

    @property
    def passes(self) -> Iterator[Pass]:
        """The `inputs`, `targets` and `num_samples` of each of this rank's passes, on its device."""
        return chain.from_iterable(shard.passes for shard in self._batch.shards if shard.num_samples)


class Callbacks:
    """The callbacks of a run, in the order of the settings."""

    def __init__(self, entries: Sequence[OwnCallback], checkpoint: Files | None = None) -> None:
        """Make the objects, and give each its state from the checkpoint, if there is one.

        Raises:
            ConfigError: a class can't be called with its arguments, or is no callback.
            OwnCodeError: its code fails.
        """
        self._callbacks = [(entry.name, _open(number, entry)) for number, entry in enumerate(entries)]
        self._methods: dict[Method, list[tuple[str, Callable[..., Any]]]] = {
            method: [
                (name, getattr(callback, method)) for name, callback in self._callbacks if hasattr(callback, method)
            ]
            for method in _ARGUMENTS
        }
        if checkpoint is not None:
            self._load(list(checkpoint["training.pt"].get("callbacks", [])))
        self.state()  # what no checkpoint can hold is refused now, not at the first save

    def has(self, method: Method) -> bool:
        """Whether a callback has this method."""
        return bool(self._methods[method])

    def call(self, method: Method, run: RunView, argument: object = None) -> None:
        """Call a method of all callbacks that have it; raises OwnCodeError.

        Args:
            argument: what it gets beside the run, if it gets more.
        """
        arguments = (run, argument)[: len(_ARGUMENTS[method])]
        where = f" on rank {run.rank}" if run.world_size > 1 else ""
        for name, function in self._methods[method]:
            with shown_as_own(f"callbacks {name}: {method} after step {run.step}{where}"):
                function(*arguments)

    def state(self) -> list[dict[str, Any]]:
        """Return the state of each callback that has one, for a checkpoint.

        Raises:
            ConfigError: a state has more than a checkpoint can hold.
            OwnCodeError: a `state_dict` fails.
        """
        found = []
        for name, callback in self._callbacks:
            if hasattr(callback, "state_dict"):
                with shown_as_own(f"callbacks {name}: state_dict"):
                    state = callback.state_dict()
                found.append({"name": name, "state": _to_plain(state, f"callbacks {name}: state_dict()")})
        return found

    def _load(self, stored: list[dict[str, Any]]) -> None:
        """Give each callback the state that one of its name has left, in the order of the settings."""
        for name, callback in self._callbacks:
            if not hasattr(callback, "load_state_dict"):
                continue
            match = next((number for number, each in enumerate(stored) if is_same_code(each["name"], name)), None)
            if match is None:
                _log.info("callbacks %s: the checkpoint has no state of it, so it starts without", escape(name))
                continue
            with shown_as_own(f"callbacks {name}: load_state_dict"):
                callback.load_state_dict(stored.pop(match)["state"])
        for each in stored:
            _log.warning(
                "callbacks: the state of %s in the checkpoint is dropped: no callback of this name loads it",
                escape(each["name"]),
            )


def _open(number: int, entry: OwnCallback) -> Any:
    """Make one callback, and check that its methods are those that are called."""
    key = f"callbacks[{number}]"
    callback = call(entry.name, f"{key}.name", entry.args)
    known = f"the methods of a callback are {', '.join(_ARGUMENTS)}"
    methods = [name for name in dir(callback) if name.startswith("on_") and callable(getattr(callback, name))]
    for name in methods:
        if name not in _ARGUMENTS:
            close = get_close_matches(name, _ARGUMENTS, 1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ConfigError(f"{key} {entry.name}: has {name}, which is never called; {hint}{known}")
        arguments = _ARGUMENTS[name]
        if not takes(getattr(callback, name), len(arguments)):
            raise ConfigError(f"{key} {entry.name}: {name} must take {', '.join(arguments)}")
        if _is_run_later(getattr(callback, name)):
            raise ConfigError(
                f"{key} {entry.name}: {name} is async or has yield, and a call would not run it; write it as a plain "
                "function"
            )
    if not methods:
        raise ConfigError(f"{key} {entry.name}: gives a {type(callback).__name__}, which has no such method; {known}")
    pair = ("state_dict", "load_state_dict")
    if sum(hasattr(callback, name) for name in pair) == 1:
        has, lacks = sorted(pair, key=lambda name: not hasattr(callback, name))
        raise ConfigError(f"{key} {entry.name}: has {has} and not {lacks}; a resume needs both")
    return callback


def _is_run_later(function: Callable[..., Any]) -> bool:
    """Whether calling the function returns a coroutine or generator instead of running its body."""
    kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    return any(is_kind(function) for is_kind in kinds)


def _to_plain(value: Any, where: str, depth: int = 0) -> Any:
    """Copy a state; raise ConfigError if it has what a checkpoint can't hold."""
    if depth > DEEPEST:
        raise ConfigError(f"{where} is nested too deeply; {_PLAIN}")
    if isinstance(value, Tensor) and is_dense(copied := value.detach().clone()):
        return copied
    if isinstance(value, dict):
        for key in value:
            if type(key) not in (int, str):
                raise ConfigError(f"{where} has a key of type {type(key).__name__}; keys are text or whole numbers")
        return {key: _to_plain(inner, f"{where}[{key!r}]", depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(inner, f"{where}[{number}]", depth + 1) for number, inner in enumerate(value)]
    for kind, plain in ((bool, bool), (Integral, int), (float, float), (str, str)):
        if isinstance(value, kind):
            return plain(value)  # also of numpy, or of an enumeration
    if value is not None:
        raise ConfigError(f"{where} is of type {type(value).__name__}, which a checkpoint can't hold; {_PLAIN}")
    return None
