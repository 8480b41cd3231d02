"""What rank 0 prints and writes of a run: log lines, metrics, status and a summary."""

import json
import logging
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dist_train.checkpoint.resume import Changes
from dist_train.data import Dataset, Samples
from dist_train.distributed.world import World
from dist_train.errors import ConfigError, NonFiniteError, UserError
from dist_train.eval_line import format_line
from dist_train.monitoring.console import RankLog, log_to_file
from dist_train.monitoring.ledger import Ledger
from dist_train.monitoring.metrics import Metrics, find_test_line, shows_progress_bar
from dist_train.own_code.copies import Code
from dist_train.run_dir import RunDir, State, write_atomically
from dist_train.settings.loader import to_yaml
from dist_train.settings.schedule import Schedule
from dist_train.settings.schema import Config
from dist_train.system.escape import escape
from dist_train.system.plural import format_count
from dist_train.system.read_file import may_exist
from dist_train.system.stop_signals import StopRequested
from dist_train.tasks import Evaluation
from dist_train.training.introduction import describe_environment, describe_progress, print_introduction
from dist_train.training.state import TrainState
from dist_train.training.step_results import StepResult
from dist_train.training.tensorboard import Observe, TensorBoard

_log = logging.getLogger(__name__)


class Reporter:
    """Base class, for ranks other than 0: it writes only how the rank ends, to the rank's own log."""

    def __init__(self, log: RankLog) -> None:
        self._log = log

    def report_start(self, moved_aside: Path | None, lost: str | None, changes: Changes) -> None: ...

    def count_step(self) -> None: ...

    def write_train_line(self, step: int, lr: float, loss: float, samples_per_second: float) -> None: ...

    def begin_evaluation(self, samples: Samples) -> Observe | None: ...

    def write_evaluation(self, step: int, evaluation: Evaluation) -> None: ...

    def record_step(self, result: StepResult, weights: Future[str] | None) -> None: ...

    def prepare_save(self) -> None: ...

    def sync_ledger(self) -> None: ...

    def record_save(self, step: int) -> None: ...

    def write_done(self) -> str | None: ...

    def find_test(self, step: int, split: str) -> dict[str, Any] | None: ...

    def report_nothing_left(self, test: dict[str, Any]) -> None: ...

    def report_done(self, test: Evaluation) -> None: ...

    def report_stop(self, reason: str | None) -> None:
        """Report a stop by `reason`; None: another rank was asked to stop."""
        self._log.outcome = f"stopped by {reason or 'another rank'}"

    def report_early_stop(self) -> None:
        """Report a stop before the first step; called from another thread."""
        self._log.write_line("leaves: asked to stop before the first step")

    def report_failure(self) -> None:
        """Report that the run can't continue and the process is about to end; called from another thread."""
        self._log.write_line("leaves: the run can't continue, `dist-train postmortem` says why")


class MainReporter(Reporter):
    """The reporter of rank 0: to the terminal, `metrics.jsonl`, `ledger.jsonl`, `tb/` and `status.json`."""

    def __init__(
        self,
        log: RankLog,
        config: Config,
        run: RunDir,
        state: TrainState,
        schedule: Schedule,
        dataset: Dataset,
        last_split: str,
        world: World,
    ) -> None:
        """`last_split`: the split that is evaluated last at the end of the run."""
        super().__init__(log)
        self._run, self._schedule, self._state = run, schedule, state
        self._name = config.run.name
        self.run_state: State = "running"
        self._started_step = state.step
        self._is_status_current = False
        """Whether nothing has happened since `status.json` was written."""
        self._metrics = Metrics(
            run.metrics, run.curves, config.log, state.step, schedule.total_steps, state.evaluated_step, last_split
        )
        events = self._metrics.events
        self._tensorboard = TensorBoard(events, config, dataset, world) if events else None
        self._ledger = Ledger(run.ledger, state.step) if config.log.ledger else None
        first_logged = next((step for step in range(1, state.step + 1) if schedule.is_logged(step)), None)
        self._earlier_lines = {run.ledger: self._ledger.newest_step} if self._ledger else {}
        """The step of the last line that earlier starts have written to a file."""
        if first_logged and self._metrics.newest_step < first_logged:
            self._earlier_lines[run.metrics] = self._metrics.newest_step
        self._prints_steps = not (shows_progress_bar(config.log.progress) and sys.stdout.isatty())

    def write_status(self, run_state: State, resumable: bool) -> None:
        self.run_state = run_state
        step = self._state.step
        self._is_status_current = self._run.write_status(
            run_state,
            step,
            self._schedule.epoch(step),
            resumable=resumable,
            total_steps=self._schedule.total_steps,
            started_step=self._started_step,
        )

    def report_start(self, moved_aside: Path | None, lost: str | None, changes: Changes) -> None:
        """Write that the run trains, and print what happened to earlier starts and what has changed since."""
        self.write_status("running", resumable=True)
        if lost:
            _log.warning("%s", lost)
        if moved_aside:
            _log.info("the earlier run %s is now %s", escape(self._run.path), escape(moved_aside))
        for path, newest_step in self._earlier_lines.items():
            if newest_step < self._started_step:
                _log.warning("%s: has no lines of the steps %d to %d", path, newest_step + 1, self._started_step)
        for path, file in ((self._run.metrics, self._metrics), (self._run.ledger, self._ledger)):
            if file and file.damaged:
                _log.warning(
                    "%s: %d of its last lines are damaged; they stay and count for nothing", path, file.damaged
                )
        for setting in changes.settings:
            _log.info("setting changed: %s", setting)
        if changes.code:
            _log.warning("your code has changed since the checkpoint: %s", escape(", ".join(changes.code)))
        if changes.bits:
            _log.warning("the bits of the result may differ from an undisturbed run: %s", ", ".join(changes.bits))

    def count_step(self) -> None:
        self._is_status_current = False
        self._metrics.step(1)

    def write_train_line(self, step: int, lr: float, loss: float, samples_per_second: float) -> None:
        """Write a line of kind `train`; `samples_per_second` over all ranks, without evaluations and saves."""
        epoch = self._schedule.epoch(step)
        self._metrics.write(
            "train", step=step, epoch=epoch, loss=loss, lr=lr, samples_per_second=round(samples_per_second, 1)
        )
        self.write_status("running", resumable=True)
        if self._prints_steps:
            _log.info(
                "step %d of %d  loss %.4f  lr %.3g  %s samples/s",
                step, self._schedule.total_steps, loss, lr, f"{samples_per_second:,.0f}",
            )  # fmt: skip

    def write_about(self) -> None:
        """Write settings and graph for TensorBoard."""
        if self._tensorboard:
            self._tensorboard.write_about(self._state)

    def begin_evaluation(self, samples: Samples) -> Observe | None:
        """Return a function to call with each batch of an evaluation; None if none is needed."""
        if self._tensorboard is None:
            return None
        return self._tensorboard.begin(samples, is_last=self._state.step >= self._schedule.total_steps)

    def write_evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Write a line of kind `eval`, and for TensorBoard its pictures."""
        self._is_status_current = False
        self._metrics.write("eval", step=step, epoch=self._schedule.epoch(step), **evaluation.to_dict())
        if self._tensorboard:
            self._tensorboard.write(step, evaluation)
        _log.info("step %d  %s", step, evaluation)

    def record_step(self, result: StepResult, weights: Future[str] | None) -> None:
        """Write the ledger's line of a step, with the hash of the weights after it."""
        if self._ledger:
            loss = result.loss_sum / len(result.samples)
            self._ledger.add(result.step, result.samples.numpy().data, loss, result.grad_norm, result.lr, weights)

    def prepare_save(self) -> None:
        """Write the ledger's buffered lines, so that no checkpoint is ahead of them, and the status."""
        if self._ledger:
            self._ledger.flush()
        if not self._is_status_current:  # a file takes a tenth of what a step waits for a checkpoint of ResNet-18
            self.write_status("running", resumable=True)

    def sync_ledger(self) -> None:
        """Make the ledger survive a power cut; called from the thread that saves."""
        if self._ledger:
            self._ledger.sync()

    def record_save(self, step: int) -> None:
        """Write to the status that the checkpoint of `step` is on disk; called from the thread that saves."""
        self._run.saved_step = step
        if self.run_state == "running":
            self.write_status("running", resumable=True)

    def write_done(self) -> str | None:
        """Write that the run is done; return which files lack something, None if all are complete."""
        if self._ledger:
            self._ledger.flush()
        self.write_status("done", resumable=False)
        missing = [self._metrics.missing, self._ledger.missing if self._ledger else None]
        missing += [None if self._is_status_current else f"{self._run.status}: can't be written"]
        if not any(missing):
            return None
        self.write_status("failed", resumable=True)
        files = "".join(f"\n  {text}" for text in missing if text)
        return (
            f"{self._name}: all steps are done and the last checkpoint is saved, but these files are not complete:"
            f"{files}\nGive the same command again when they can be written"
        )

    def report_failure(self) -> None:
        self.write_status("failed", resumable=True)
        super().report_failure()

    def report_early_stop(self) -> None:
        self.write_status("preempted", resumable=True)
        super().report_early_stop()

    def report_stop(self, reason: str | None) -> None:
        super().report_stop(reason)
        self.write_status("preempted", resumable=True)
        _log.info(
            "%s: stopped by %s after %s and saved; the same command continues",
            self._name, reason or "another rank", describe_progress(self._state.step, self._schedule),
        )  # fmt: skip

    def find_test(self, step: int, split: str) -> dict[str, Any] | None:
        """Return the line of the last evaluation, on `split`, at `step` that an earlier start has written."""
        return find_test_line(self._metrics.earlier, step, split)

    def report_nothing_left(self, test: dict[str, Any]) -> None:
        more = "More epochs: train.epochs=..."
        if self._state.ends_early:
            more = "It ended early; more epochs: train.early_stopping.patience=..."
        _log.info(
            "%s: nothing left to do: finished at %s: %s. %s; start again from zero: run.resume=never",
            self._name, describe_progress(self._state.step, self._schedule), format_line(test), more,
        )  # fmt: skip
        self._print_paths()

    def report_done(self, test: Evaluation) -> None:
        """Print the summary."""
        step, window = self._state.step, self._state.window
        epochs = format_count(self._schedule.epoch(step), "epoch")
        early = ", ended early by train.early_stopping" if self._state.ends_early else ""
        _log.info("%s: done, %s, %s%s", self._name, format_count(step, "step"), epochs, early)
        _log.info("%s", test)
        if classes := _list_classes(test):
            _log.info("per class: %s", classes)
        if window.overall:
            _log.info("%s samples/s while training", f"{window.overall:,.0f}")
        self._print_paths()

    def _print_paths(self) -> None:
        path = escape(self._run.path)
        _log.info("run:      %s", path)
        if may_exist(self._run.curves):
            _log.info("curves:   tensorboard --logdir %s", escape(self._run.curves))
        _log.info("evaluate: python -m dist_train.evaluate %s", path)

    def close(self) -> None:
        self._metrics.close()
        if self._ledger:
            self._ledger.close()


@contextmanager
def open_reporter(
    config: Config,
    code: Code,
    run: RunDir,
    dataset: Dataset,
    held_out: tuple[Samples, ...],
    state: TrainState,
    schedule: Schedule,
    world: World,
    allocator: str,
) -> Iterator[Reporter]:
    """Report into the run's directory, which rank 0 has claimed, until the run is done or fails.

    Args:
        held_out: the splits that are evaluated: the first during training, all at the end.
    """
    with log_to_file(run.logs, world, state.step) as log:
        with world.agreement():
            reporter = (
                _open_main_reporter(
                    log, config, code, run, dataset, held_out[-1].split, state, schedule, world, allocator
                )
                if world.is_main
                else None
            )
        if reporter is None:
            yield Reporter(log)
            return
        print_introduction(config, dataset, state, schedule, world, allocator)
        if config.checkpoint.split == "auto" and held_out[0].split == "test":
            _log.info(
                "there is no validation split, so the best checkpoint is chosen on the test split; data.validation=0.1 "
                "makes one, and checkpoint.split=test says that this is meant"
            )
        reporter.write_about()
        with _record_ending(reporter, state, run):
            yield reporter


def _open_main_reporter(
    log: RankLog,
    config: Config,
    code: Code,
    run: RunDir,
    dataset: Dataset,
    last_split: str,
    state: TrainState,
    schedule: Schedule,
    world: World,
    allocator: str,
) -> MainReporter:
    """Write the files that describe the run and open those that it appends to; raises ConfigError."""
    try:
        code.write(run.code)
        write_atomically(run.config, f"# Resolved settings of the run {escape(config.run.name)}.\n{to_yaml(config)}")
        write_atomically(run.environment, json.dumps(describe_environment(world, state, allocator), indent=2) + "\n")
        return MainReporter(log, config, run, state, schedule, dataset, last_split, world)
    except OSError as error:
        run.release()
        raise ConfigError(
            f"run.dir {escape(run.path)}: {escape(error.filename)} can't be written: {error.strerror}. The run has "
            "not begun; give the same command again when it can be"
        ) from error


@contextmanager
def _record_ending(reporter: MainReporter, state: TrainState, run: RunDir) -> Iterator[None]:
    """Write to `status.json` how the run has ended, and release its directory."""
    try:
        yield
        if reporter.run_state == "running":
            reporter.write_status("done", resumable=False)
    except StopRequested:
        reporter.write_status("preempted", resumable=True)
        raise
    except BaseException as error:
        reporter.write_status("failed", resumable=not isinstance(error, UserError | NonFiniteError))
        if isinstance(error, KeyboardInterrupt):
            _log.info("interrupted after step %d; the same command continues from the newest checkpoint", state.step)
        raise
    finally:
        reporter.close()
        run.release()


def _list_classes(evaluation: Evaluation, most: int = 20) -> str:
    """The classes and their accuracies, or F1 where each sample may be of several; of many classes only the worst."""
    classes = evaluation.to_dict().get("per_class", {})
    scores = {name: row.get("accuracy", row.get("f1")) for name, row in classes.items()}
    rows = [(score, escape(name)) for name, score in scores.items() if score is not None]
    listed = sorted(rows)[:most] if len(rows) > most else rows
    text = ", ".join(f"{escape(name, 80)} {100 * accuracy:.1f} %" for accuracy, name in listed)
    return text if len(rows) <= most else f"{text} (the worst {most} of {len(rows)})"
