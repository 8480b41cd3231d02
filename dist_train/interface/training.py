"""`train` and `evaluate` for Python: in a script, a test or a notebook, alone or under torchrun."""

import json
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dist_train.data.samples import SplitName
from dist_train.distributed.world import World
from dist_train.errors import ConfigError
from dist_train.evaluate import evaluate_run, load_config_of
from dist_train.interface.process import joined_ranks, restored_process
from dist_train.monitoring.console import log_to_terminal
from dist_train.monitoring.metrics import newest_lines
from dist_train.run_dir import RunDir
from dist_train.settings.schema import Config
from dist_train.system.stop_signals import Stop, StopRequested
from dist_train.tasks import Evaluation
from dist_train.train import train as train_to_end


@dataclass(frozen=True)
class TrainingResult:
    """How a training has ended; the same on every rank."""

    run_dir: Path
    step: int
    """The last finished step."""
    is_done: bool
    """False: the training was asked to stop, and has saved; the same call continues it."""
    evaluations: Mapping[str, Mapping[str, Any]]
    """The newest evaluation of each split, as in `metrics.jsonl`: `result.evaluations["test"]["accuracy"]`."""


def train(config: Config) -> TrainingResult:
    """Train what `config` says, or continue its run, as `dist-train train` does in this process.

    Under torchrun every rank calls this. In the main thread, a stop signal or Ctrl-C finishes the step, saves and
    returns; a second Ctrl-C raises KeyboardInterrupt. What the training changes in the process is restored afterwards.

    Raises:
        UserError: settings, data or the run's directory do not fit together; its text says what to do.
        NonFiniteError: the loss or a gradient is infinite or NaN.
        SaveError: the last checkpoint could not be written.
    """
    with restored_process(), joined_ranks(config) as world, _listen(config) as stop:
        log_to_terminal(world, sys.stdout)
        try:
            is_done = train_to_end(_without_watch(config, world), world, stop, "the same script")
        except StopRequested:
            is_done = False
        return _read_result(RunDir(config.run.dir), is_done, world)


def evaluate(
    run_dir: str | Path,
    split: SplitName | None = None,
    checkpoint: str = "latest",
    overrides: Sequence[str] = (),
    *,
    trust_code: bool = False,
) -> Evaluation:
    """Evaluate a checkpoint of a run on one split; every rank that calls this gets the same result.

    Args:
        split: `train`, `validation` or `test`; default: test, or validation if the run has no test split.
        checkpoint: `latest`, `best`, the number of a step, or the directory of a checkpoint.
        overrides: `key=value` of other settings, such as `data.root=...`.
        trust_code: also run code that the run has kept if it belongs to another user.

    Raises:
        UserError: this is no run, or its checkpoint or data can't be read.
    """
    run = RunDir(run_dir)
    config = load_config_of(run, overrides)
    with restored_process(), joined_ranks(config) as world:
        log_to_terminal(world, sys.stderr)
        return evaluate_run(run, config, split, checkpoint, world, trust_code).evaluation


def _listen(config: Config) -> Stop:
    """Return the stop flag: set by signals in the main thread, never in other threads, where Python has no handlers."""
    limit = config.run.time_limit_minutes
    if threading.current_thread() is threading.main_thread():
        return Stop.listen(limit)
    if limit is not None:
        raise ConfigError(
            f"run.time_limit_minutes is {limit:g}, but only the main thread of a process has a timer: call "
            "train there, or leave this setting out"
        )
    return Stop()


def _without_watch(config: Config, world: World) -> Config:
    """Turn the watchdog off for a single process: a user may have stopped it in a debugger."""
    if world.backend is not None:
        return config
    return config.model_copy(update={"distributed": config.distributed.model_copy(update={"stall_minutes": None})})


def _read_result(run: RunDir, is_done: bool, world: World) -> TrainingResult:
    """Read on rank 0, which has the files, what every rank returns."""
    found: dict[str, Any] = {}
    if world.is_main:
        found = {"step": (run.read_status() or {}).get("step", 0), "evaluations": _read_evaluations(run)}
    sent = world.broadcast_bytes(json.dumps(found).encode() if world.is_main else None)
    return TrainingResult(run.path, is_done=is_done, **json.loads(sent))


def _read_evaluations(run: RunDir) -> dict[str, dict[str, Any]]:
    """Return the lines of the newest evaluations by their split; they are of one step."""
    found: dict[str, dict[str, Any]] = {}
    with suppress(OSError):
        for line in newest_lines(run.metrics, "eval"):
            if any(line["step"] != other["step"] for other in found.values()):
                break
            found.setdefault(line["split"], line)
    return found
