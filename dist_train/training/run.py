"""A training in progress: its parts, and what the loop does between two steps."""

import json
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from torch import Tensor

from dist_train.checkpoint.saver import Saver
from dist_train.data import Batch, Dataset, Samples, TrainBatches
from dist_train.diagnostics.recorder import Recorder
from dist_train.distributed.reduction import GradientReduction
from dist_train.distributed.world import World
from dist_train.errors import ConfigError, NonFiniteError, SaveError
from dist_train.evaluate import evaluate
from dist_train.optim.lr_schedule import LrSchedule
from dist_train.settings.schedule import Schedule
from dist_train.settings.schema import Config
from dist_train.system.stop_signals import Stop, StopRequested
from dist_train.tasks import Evaluation, Task
from dist_train.training.callbacks import Callbacks, RunView, StepView
from dist_train.training.reporter import Reporter
from dist_train.training.state import TrainState
from dist_train.training.step_results import StepResult, StepResults


@dataclass
class TrainingRun:
    """The parts of a training that `open_training` has opened."""

    config: Config
    world: World
    dataset: Dataset
    held_out: tuple[Samples, ...]
    """The splits that are evaluated: the first during training, all at the end."""
    task: Task
    schedule: Schedule
    rates: LrSchedule
    state: TrainState
    reduction: GradientReduction
    batches: TrainBatches
    step_results: StepResults
    reporter: Reporter
    recorder: Recorder
    saver: Saver
    callbacks: Callbacks
    view: RunView
    """The run as callbacks see it."""
    stop: Stop
    about: dict[str, Any]
    """Settings, data and versions, for each checkpoint."""
    build_reduction: Callable[[], GradientReduction]
    """Builds the reduction for the parameters that are trained now."""
    has_new_best: bool = False
    """Whether the newest evaluation is the best so far, and is to be saved for it."""
    stop_requested: bool = False
    """Whether a rank has requested a stop, the same on every rank."""
    _newest: Evaluation | None = None
    """The newest evaluation of this process."""
    _weights: dict[int, Future[str]] = field(default_factory=dict)
    """Hashes of the weights after the steps whose results are pending."""

    def start(self) -> None:
        """Call the callbacks before the first step of this start; raises OwnCodeError."""
        with self.state.window.stopped_clock():
            self.callbacks.call("on_start", self.view)

    def next_batch(self) -> Batch | None:
        """Return this rank's part of the next global batch; None if a single process is asked to stop.

        Several ranks learn of a stop together, with the gradients of a step.

        Raises:
            StopRequested: of several ranks, this one got no data in time; the others are in the step already.
        """
        self.recorder.mark("data", self.state.step)
        if self.world.size == 1 and self.stop.reason is not None:
            return None
        try:
            return next(self.batches)
        except StopRequested:
            if self.world.size > 1:
                raise
            return None

    def record_step(self, lr: float, batch: Batch, scalars: Tensor, grad_norm: Tensor | None) -> None:
        """Record the step that was just made, on a GPU some steps later, and call the callbacks.

        Args:
            lr: learning rate of parameters without a group.
            batch: this rank's part of the global batch.
            scalars: as `train_step` returns them.
            grad_norm: likewise.

        Raises:
            NonFiniteError: the loss or the gradient norm of a step is infinite or NaN.
            OwnCodeError: a callback fails.
        """
        step = self.state.step
        self.reporter.count_step()
        if self.world.is_main and self.config.log.ledger and self.schedule.is_hashed(step):
            self._weights[step] = self.saver.hash_weights(self.state.network.state_dict())
        self._process_results(self.step_results.add(step, lr, batch.samples, scalars, grad_norm))
        if self.callbacks.has("on_step"):
            self.callbacks.call("on_step", self.view, StepView(lr, grad_norm, batch, scalars))

    def _finish_steps(self) -> None:
        """Wait for the steps made so far, and record them; every rank has to call this after the same step."""
        self._process_results(self.step_results.flush())

    def _process_results(self, results: Iterable[StepResult]) -> None:
        is_scaled = self.state.scaler is not None  # it finds its factor by gradients that are infinite
        for result in results:
            if not isfinite(result.loss_sum) or not (is_scaled or isfinite(result.grad_norm or 0)):
                self.state.step = result.step  # on a GPU, others were made after it
                self._check_own_loss(result)
                raise self._non_finite_error(result)
            self.state.window.add(result.loss_sum, len(result.samples))
            self.reporter.record_step(result, self._weights.pop(result.step, None))
            if self.schedule.is_logged(result.step):
                self.reporter.write_train_line(result.step, result.lr, *self.state.window.read())
            self.stop_requested |= result.stop_requests > 0

    def unfreeze(self) -> None:
        """Train the parameters that are due after this epoch; a start after this step does the same."""
        with self.state.window.stopped_clock():
            self._finish_steps()
            self.state.unfreeze(self.schedule.epoch(self.state.step))
            del self.reduction  # its hooks must be gone before the next one has its own
            self.reduction = self.build_reduction()

    def is_over(self) -> bool:
        """Whether all steps are made, or the evaluations so far have ended the run early."""
        return self.state.step >= self.schedule.total_steps or self.state.ends_early

    def is_evaluation_pending(self) -> bool:
        """Whether an earlier start was stopped in the evaluation that is due after this step."""
        step = self.state.step
        return self.schedule.is_evaluated(step) and self.state.evaluated_step != step

    def evaluate(self) -> bool:
        """Evaluate the split by which the best checkpoint is chosen; return False if a stop was requested."""
        self._finish_steps()
        evaluation = self._evaluate_split(self.held_out[0])
        if evaluation is None:
            return False
        self._record_evaluation(evaluation)
        self.callbacks.call("on_evaluate", self.view, evaluation)
        return True

    def save(self) -> None:
        """Save a checkpoint between two steps; link it as `best` if it is the best so far."""
        self.state.evaluated_step = self.state.step
        self._save()

    def _save(self) -> None:
        self._finish_steps()
        with self.state.window.stopped_clock():
            self.recorder.mark("save", self.state.step)
            about = {**self.about, "callbacks": self.callbacks.state()}
            files = self.state.checkpoint_files(self.schedule.steps_per_epoch, about)
            self.reporter.prepare_save()
            if self.world.is_main:  # last: from here on the saver's thread competes for the interpreter
                self.saver.save(self.state.step, files, link="best" if self.has_new_best else None)
            self.has_new_best = False
            if self.callbacks.has("on_checkpoint"):
                self._call_on_checkpoint()

    def _call_on_checkpoint(self) -> None:
        """Wait until the checkpoint is complete on disk, and give it to the callbacks; not if it could not be saved."""
        if self.world.is_main:
            self.saver.wait()
        if not self._share_fault(self.saver.last_failed):
            self.callbacks.call("on_checkpoint", self.view, self.saver.path(self.state.step))

    def save_and_stop(self) -> bool:
        """Save, and report that the run was stopped; return False: it is not done.

        An evaluation that was interrupted is repeated by the next start.
        """
        self._save()
        self._end(is_done=False)
        self.reporter.report_stop(self.stop.reason)
        return False

    def finish(self) -> bool:
        """Evaluate what is held out and save; return whether the run is done, or was stopped meanwhile."""
        self.batches.close()
        self._finish_steps()
        if earlier := self._read_earlier_test():
            self._end(is_done=True)
            self._wait_for_files()
            self.reporter.report_nothing_left(earlier)
            return True
        # As where the run ends early; a save without an evaluation counts as evaluated where none was due.
        is_evaluated = self.state.evaluated_step == self.state.step and self.schedule.has_evaluation(self.state.step)
        evaluations = [self._newest] if self._newest and is_evaluated else []
        known = len(evaluations)
        is_known = bool(evaluations) or (is_evaluated and self._is_best_known())
        for split in self.held_out[int(is_known) :]:
            evaluation = self._evaluate_split(split)
            if evaluation is None:
                return self.save_and_stop()
            evaluations.append(evaluation)
        if not is_known:
            self._record_evaluation(evaluations[0])
        for evaluation in evaluations[known:]:
            self.callbacks.call("on_evaluate", self.view, evaluation)
        self.save()
        self._end(is_done=True)
        self._wait_for_files()
        self.reporter.report_done(evaluations[-1])
        return True

    def _is_best_known(self) -> bool:
        """Whether the test split alone needs an evaluation at the end, if there is another that was evaluated."""
        return len(self.held_out) > 1 and self.state.best_step is not None

    def _evaluate_split(self, samples: Samples) -> Evaluation | None:
        state = self.state
        with state.window.stopped_clock():
            state.broadcast_buffers()
            evaluation = evaluate(
                state.evaluated_network,
                self.task,
                samples,
                self.dataset,
                self.config.data,
                state.auto_settings,
                self.world,
                self.stop,
                mark=lambda: self.recorder.mark("evaluate", state.step),
                batch_size=self.config.eval.batch_size,
                observe=self.reporter.begin_evaluation(samples),
            )
            if evaluation:
                self.reporter.write_evaluation(state.step, evaluation)
        return evaluation

    def _record_evaluation(self, evaluation: Evaluation) -> None:
        self._newest = evaluation
        value = evaluation.value(self.state.monitor.name)
        self.has_new_best = self.state.is_best(value) and self.config.checkpoint.keep_best
        self.state.evaluated_step = self.state.step
        if self.schedule.has_evaluation(self.state.step):
            self.state.record_evaluation(value)

    def _read_earlier_test(self) -> dict[str, Any] | None:
        """The last evaluation of this very step by an earlier start, the same on every rank."""
        found = (
            json.dumps(self.reporter.find_test(self.state.step, self.held_out[-1].split)).encode()
            if self.world.is_main
            else None
        )
        return json.loads(self.world.broadcast_bytes(found))  # type: ignore[no-any-return]

    def _wait_for_saves(self) -> None:
        """Wait until the last checkpoint is on disk, and fail on every rank if it is not."""
        self._fail_together(self.saver.finish() if self.world.is_main else None)

    def _end(self, is_done: bool) -> None:
        """Call the callbacks when all checkpoints of this start are on disk."""
        self._wait_for_saves()
        if self.callbacks.has("on_end"):
            self.callbacks.call("on_end", self.view, is_done)
            self.world.barrier()  # the run is not done where a rank has failed in it

    def _wait_for_files(self) -> None:
        """Wait until all files of the finished run are on disk, and fail on every rank if one is incomplete."""
        self._fail_together((self.saver.finish() or self.reporter.write_done()) if self.world.is_main else None)

    def _fail_together(self, found_by_main: str | None) -> None:
        """Raise SaveError on every rank if rank 0 has found a fault."""
        if found := self._share_fault(found_by_main):
            raise SaveError(found)

    def _share_fault(self, found_by_main: str | None) -> str:
        """Return on every rank the fault that rank 0 has found; empty if none."""
        fault = (found_by_main or "").encode() if self.world.is_main else None
        return self.world.broadcast_bytes(fault).decode()

    def _check_own_loss(self, result: StepResult) -> None:
        """Refuse the user's loss if it is not finite before any update; every rank has the same result."""
        with self.world.agreement():
            if result.step == 1 and self.task.own_loss and not isfinite(result.loss_sum):
                raise ConfigError(
                    f"loss {self.task.own_loss}: is {result.loss_sum / len(result.samples)} for the samples of the "
                    "first step, before any update; check what it computes, such as divisions by 0 and logarithms of it"
                )

    def _non_finite_error(self, result: StepResult) -> NonFiniteError:
        # A gradient alone does not show which rank it came from, and on a GPU the newest losses are of a later step.
        is_unknown = isfinite(result.loss_sum) or self.world.device.type == "cuda"
        norm = "not measured (log.ledger is false)" if result.grad_norm is None else result.grad_norm
        return NonFiniteError(
            f"the loss of step {result.step} is {result.loss_sum / len(result.samples)}, the gradient norm {norm}, at "
            f"the learning rate {result.lr:g}; samples {result.samples.tolist()}. A smaller optim.lr or a "
            "train.max_grad_norm may help",
            is_own=is_unknown or not self.reduction.is_own_loss_finite(),
        )
