"""What a run tells while it goes on: lines, metrics, status and the summary. Rank 0 reports; the others are silent."""

import json
import logging
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from dist_train import __version__
from dist_train.checkpoint.serialization import weights_sha256
from dist_train.data import Dataset
from dist_train.distributed.world import World
from dist_train.errors import NonFiniteError, UserError
from dist_train.evaluate import Evaluation
from dist_train.execution.auto_settings import Choices
from dist_train.monitoring.console import RankLog, log_to_file
from dist_train.monitoring.ledger import Ledger
from dist_train.monitoring.metrics import Metrics, find_test_line, shows_progress_bar
from dist_train.run_dir import RunDir, State, write_whole
from dist_train.settings.loader import to_yaml
from dist_train.settings.schedule import Schedule
from dist_train.settings.schema import Config
from dist_train.system.stop_signals import StopRequested
from dist_train.training.state import Training
from dist_train.training.step_results import StepResult

_log = logging.getLogger(__name__)


class Reporter:
    """The report of a rank that is not the first: nothing but how it leaves, in its own log."""

    def __init__(self, log: RankLog) -> None:
        self._own = log

    def moved_aside(self, earlier: Path) -> None: ...

    def resumed(self, settings: list[str], bits: list[str]) -> None: ...

    def stepped(self, count: int) -> None: ...

    def trained(self, step: int, lr: float, loss: float, samples_per_second: float) -> None: ...

    def evaluated(self, step: int, evaluation: Evaluation) -> None: ...

    def learned(self, fact: StepResult) -> None: ...

    def saving(self) -> None: ...

    def sync(self) -> None: ...

    def stopped(self, reason: str | None) -> None:
        """The rank leaves because a rank was asked to; None: another one was."""
        self._own.outcome = f"stopped by {reason or 'another rank'}"

    def left_early(self) -> None:
        """A stop before the first step; called from a thread of its own."""
        self._own.note("leaves: asked to stop before the first step")

    def failed(self) -> None:
        """The run can't go on, and the process is about to be ended; called from a thread of its own."""
        self._own.note("leaves: the run can't go on, `dist-train postmortem` says why")

    def tested(self, step: int) -> dict[str, Any] | None: ...

    def nothing_left(self, test: dict[str, Any]) -> None: ...

    def done(self, test: Evaluation) -> None: ...


class MainReporter(Reporter):
    """The report of rank 0: to the terminal, `metrics.jsonl`, `tb/` and `status.json`."""

    def __init__(self, log: RankLog, config: Config, run: RunDir, training: Training, plan: Schedule) -> None:
        super().__init__(log)
        self._run, self._plan, self._training = run, plan, training
        self._name = config.run.name
        self.state: State = "running"
        self._started_step = training.step
        self._is_status_new = False
        """Whether nothing has happened since `status.json` was written."""
        self._metrics = Metrics(
            run.metrics, run.curves, config.log, training.step, plan.total_steps, training.evaluated_step
        )
        self._ledger = Ledger(run.ledger, training.step) if config.log.ledger else None
        self._tells_steps = not (shows_progress_bar(config.log.progress) and sys.stdout.isatty())

    def status(self, state: State, resumable: bool) -> None:
        self.state = state
        step = self._training.step
        self._is_status_new = self._run.write_status(
            state,
            step,
            self._plan.epoch(step),
            resumable=resumable,
            total_steps=self._plan.total_steps,
            started_step=self._started_step,
        )

    def moved_aside(self, earlier: Path) -> None:
        _log.info("the earlier run %s is now %s", self._run.path, earlier)

    def resumed(self, settings: list[str], bits: list[str]) -> None:
        """Say which settings have changed since the checkpoint, and warn of what has and may change bits."""
        for setting in settings:
            _log.info("setting changed: %s", setting)
        if bits:
            _log.warning("the bits of the result may differ from an undisturbed run: %s", ", ".join(bits))

    def stepped(self, count: int) -> None:
        self._is_status_new = False
        self._metrics.step(count)

    def trained(self, step: int, lr: float, loss: float, samples_per_second: float) -> None:
        """A line of kind `train`; `samples_per_second` over all ranks, evaluation and saving left out."""
        epoch = self._plan.epoch(step)
        self._metrics.write(
            "train", step=step, epoch=epoch, loss=loss, lr=lr, samples_per_second=round(samples_per_second, 1)
        )
        self.status("running", resumable=True)
        if self._tells_steps:
            _log.info(
                "step %d of %d  loss %.4f  lr %.3g  %s samples/s",
                step, self._plan.total_steps, loss, lr, f"{samples_per_second:,.0f}",
            )  # fmt: skip

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        self._is_status_new = False
        self._metrics.write("eval", step=step, epoch=self._plan.epoch(step), **evaluation.to_dict())
        _log.info("step %d  %s", step, evaluation)

    def learned(self, fact: StepResult) -> None:
        """The ledger's line of a step."""
        if self._ledger:
            weights = weights_sha256(self._training.network.state_dict()) if self._plan.is_hashed(fact.step) else None
            loss = fact.loss_sum / len(fact.samples)
            self._ledger.add(fact.step, fact.samples.numpy().data, loss, fact.grad_norm, fact.lr, weights)

    def saving(self) -> None:
        """Hand over what the ledger holds back: a checkpoint is never ahead of it; and say how far the run is."""
        if self._ledger:
            self._ledger.flush()
        if not self._is_status_new:  # a file takes a tenth of what a step waits for a checkpoint of ResNet-18
            self.status("running", resumable=True)

    def sync(self) -> None:
        """Make the ledger survive a power cut; called from the thread that saves."""
        if self._ledger:
            self._ledger.sync()

    def failed(self) -> None:
        self.status("failed", resumable=True)
        super().failed()

    def left_early(self) -> None:
        self.status("preempted", resumable=True)
        super().left_early()

    def stopped(self, reason: str | None) -> None:
        super().stopped(reason)
        self.status("preempted", resumable=True)
        _log.info(
            "%s: stopped by %s after %s and saved; the same command goes on",
            self._name, reason or "another rank", _how_far(self._training.step, self._plan),
        )  # fmt: skip

    def tested(self, step: int) -> dict[str, Any] | None:
        """The line of the test evaluation at `step` that an earlier start has left."""
        return find_test_line(self._metrics.earlier, step)

    def nothing_left(self, test: dict[str, Any]) -> None:
        _log.info(
            "%s: nothing left to do: finished at %s: %s accuracy %.2f %% (%d of %d). More epochs: "
            "train.epochs=...; start anew: run.resume=never",
            self._name, _how_far(self._training.step, self._plan),
            test["split"], 100 * test["accuracy"], test["correct"], test["count"],
        )  # fmt: skip
        self._where()

    def done(self, test: Evaluation) -> None:
        """The summary."""
        step, window = self._training.step, self._training.window
        _log.info("%s: done, %d steps, %d epochs", self._name, step, self._plan.epoch(step))
        _log.info("%s", test)
        _log.info("per class: %s", _per_class(test))
        if window.overall:
            _log.info("%s samples/s while training", f"{window.overall:,.0f}")
        self._where()

    def _where(self) -> None:
        _log.info("run:      %s", self._run.path)
        if self._run.curves.exists():
            _log.info("curves:   tensorboard --logdir %s", self._run.curves)
        _log.info("evaluate: python -m dist_train.evaluate %s", self._run.path)

    def close(self) -> None:
        self._metrics.close()
        if self._ledger:
            self._ledger.close()


@contextmanager
def open_report(
    config: Config, run: RunDir, dataset: Dataset, training: Training, plan: Schedule, world: World, allocator: str
) -> Iterator[Reporter]:
    """Report into the run's directory, which rank 0 has claimed, until the run is done or fails."""
    with log_to_file(run.logs, world, training.step) as log:
        if not world.is_main:
            yield Reporter(log)
            return
        write_whole(run.config, f"# Resolved settings of the run {config.run.name}.\n{to_yaml(config)}")
        write_whole(run.environment, json.dumps(_environment(world, training, allocator), indent=2) + "\n")
        report = MainReporter(log, config, run, training, plan)
        _introduce(config, dataset, training, plan, world, allocator)
        report.status("running", resumable=True)
        with _told(report, training, run):
            yield report


@contextmanager
def _told(report: MainReporter, training: Training, run: RunDir) -> Iterator[None]:
    """Write down in `status.json` how the run has ended, and let go of its directory."""
    try:
        yield
        if report.state == "running":
            report.status("done", resumable=False)
    except StopRequested:
        report.status("preempted", resumable=True)
        raise
    except BaseException as error:
        report.status("failed", resumable=not isinstance(error, UserError | NonFiniteError))
        if isinstance(error, KeyboardInterrupt):
            _log.info("interrupted after step %d; the same command goes on from the newest checkpoint", training.step)
        raise
    finally:
        report.close()
        run.release()


def _introduce(
    config: Config, dataset: Dataset, training: Training, plan: Schedule, world: World, allocator: str
) -> None:
    """Say what is about to run, with every number that was derived and every choice that was made."""
    weights = sum(weight.numel() for weight in training.network.parameters())
    _log.info(
        "%s: %s (%s weights) on %s: %s training samples of %s, %d classes",
        config.run.name, config.model.name, f"{weights:,}", config.data.name, f"{plan.num_train:,}",
        "x".join(map(str, dataset.shape)), len(dataset.classes),
    )  # fmt: skip
    _log.info(
        "%d rank(s) on %s, global batch %d, at most %d a rank and pass; %s",
        world.size, world.device.type, plan.global_batch, plan.largest_pass(world.size), training.choices,
    )  # fmt: skip
    if world.size > 1:
        _log.info("gradients go between ranks through %s", _way(config, training.choices, world))
    _log.info("memory: %s", allocator)
    start = "goes on at" if training.step else "starts at"
    _log.info("%s %s; %d an epoch", start, _how_far(training.step, plan), plan.steps_per_epoch)


def _how_far(step: int, plan: Schedule) -> str:
    """A run may be past its end, where the end was moved to an earlier step."""
    is_past = step > plan.total_steps
    return f"step {step}" + (f", past the {plan.total_steps} asked for" if is_past else f" of {plan.total_steps}")


def _way(config: Config, choices: Choices, world: World) -> str:
    """How gradients go between ranks, and in which type."""
    compression = config.distributed.compression
    if not choices.shared_memory:
        return str(world.backend) if compression == "none" else f"{world.backend}, as {compression}"
    return "shared memory" if compression == "none" else f"shared memory, where {compression} would save nothing"


def _environment(world: World, training: Training, allocator: str) -> dict[str, Any]:
    """Versions and devices; of the process's environment nothing, since it may hold secrets."""
    packages = ("torchvision", "numpy", "pillow", "pydantic", "tensorboard")
    return {
        "dist_train": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {"torch": str(torch.__version__), **{name: _version(name) for name in packages}},
        "cuda": torch.version.cuda,
        "device": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "cpu",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "backend": world.backend,
        "world_size": world.size,
        "choices": training.choices.to_dict(),
        "host": {"allocator": allocator},
    }


def _version(package: str) -> str | None:
    """None where it is not installed: without its work a run does without it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _per_class(evaluation: Evaluation, most: int = 20) -> str:
    """The classes and their accuracies; of many classes only the worst."""
    rows = [(row["accuracy"], name) for name, row in evaluation.to_dict()["per_class"].items()]
    shown = sorted(rows)[:most] if len(rows) > most else rows
    text = ", ".join(f"{name} {100 * accuracy:.1f} %" for accuracy, name in shown)
    return text if len(rows) <= most else f"{text} (the worst {most} of {len(rows)})"
