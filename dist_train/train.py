"""The story of a run: `train`, and `train_step`, which it tells again and again."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from torch import Tensor

from dist_train.checkpoint import resume
from dist_train.checkpoint.saver import Saver
from dist_train.checkpoint.serialization import Files
from dist_train.checkpoint.store import Store
from dist_train.data import Dataset, Samples, open_dataset
from dist_train.data.batches import Batch, TrainBatches
from dist_train.diagnostics.recorder import Mark, Recorder, clear_diagnostics, ignore_mark, open_recorder
from dist_train.distributed.shared_memory import SharedMemory, open_shared_memory
from dist_train.distributed.world import World
from dist_train.errors import NonFiniteError, SaveError
from dist_train.evaluate import Evaluation, evaluate
from dist_train.execution.auto_settings import (
    Choices,
    Convolutions,
    apply_to_process,
    choose,
    convolution_work,
    draws_random_numbers,
)
from dist_train.execution.lazy_dynamo import backward, leave_dynamo_out
from dist_train.models import build_model, check_passes
from dist_train.optim.optimizer import lr_at
from dist_train.run_dir import RunDir
from dist_train.seeds import seed_step
from dist_train.settings.schedule import Schedule, check_ranks
from dist_train.settings.schema import Config
from dist_train.system.cpu import keep_freed_memory
from dist_train.system.stop_signals import Stop, StopRequested
from dist_train.training.reporter import Reporter, open_report
from dist_train.training.state import Training
from dist_train.training.step_results import StepResult, StepResults


def train(config: Config, world: World, stop: Stop | None = None, command: str = "the same command") -> bool:
    """Train what `config` says, from where the run's newest checkpoint left off.

    Args:
        stop: whether this process is asked to stop; by default nobody asks it.
        command: what a user gives to go on after a failure.

    Returns:
        Whether the run is done; if not, a rank was asked to stop, and the same command goes on.

    Raises:
        UserError: settings, data, run directory or checkpoint do not go together, and nothing was written; or, with
            the loader `workers`, a image can't be read, or another process has taken the run over.
        NonFiniteError: the loss or a gradient is no number any more.
        SaveError: the last checkpoint could not be written.
    """
    stop = stop or Stop()
    if config.train.compile == "off":
        leave_dynamo_out()
    allocator = keep_freed_memory() if config.distributed.allocator == "auto" else "system"
    run = RunDir(config.run.dir)
    # A rank in the place of a lost one goes on with what that one has begun anew.
    anew = config.run.resume == "never" and not run.was_begun_before_restart()
    with world.agreement():
        check_ranks(config, world.size)
        dataset = open_dataset(config.data, config.run.seed, world)
        network = build_model(config.model, dataset.shape, len(dataset.classes), config.run.seed)
        work = convolution_work(network, dataset.shape)
        may_be_together = config.train.compile == "step" and world.size == 1 and world.device.type == "cpu"  # type: ignore[comparison-overlap]
        draws = may_be_together and draws_random_numbers(network, dataset.shape)
        plan = Schedule.of(config, len(dataset.train))
        if world.is_main:
            run.check_usable(anew)
    files = resume.load(config, run, world, anew)
    memory = open_shared_memory(config.distributed, world)
    passes = plan.largest_pass(world.size), plan.largest_pass(1)
    convolutions = Convolutions(max(work, default=0), *passes, count=len(work), draws=draws)
    choices = _agreed_choices(config, world, convolutions, files, memory)
    with world.agreement():
        deterministic = config.run.deterministic or config.run.reproducible == "bitwise"
        apply_to_process(choices, deterministic, world.device)
        training = Training(config, network, choices, world, memory)
        if files:
            training.restore(files)
        check_passes(network, dataset.shape, plan.smallest_pass(world.size))
    aside, attempt = _claimed(run, anew, world, training.step)
    stall_minutes = config.distributed.stall_minutes
    with (
        open_report(config, run, dataset, training, plan, world, allocator) as report,
        open_recorder(run.path, world, attempt, stall_minutes, command, lambda: stop.reason is not None) as recorder,
        _open_saver(config, run, report) as saver,
    ):
        if aside:
            report.moved_aside(aside)
        if files:
            report.resumed(resume.changed_settings(files, config), resume.other_bits(files, config, choices, world))
        recorder.call_before_exit(report.failed)
        stop.on_early_stop = lambda: _left_early(report, recorder)
        about = resume.about(config, choices, world)
        return _Run(config, world, run, dataset, training, plan, report, saver, stop, recorder, about).tell()


def _claimed(run: RunDir, anew: bool, world: World, step: int) -> tuple[Path | None, int]:
    """Take the directory over for a training that goes on at `step`.

    Returns:
        Where an earlier run was moved, if it was, known to rank 0 only; and the number of this start.
    """
    with world.agreement():
        aside = run.claim(anew) if world.is_main else None
        if world.is_main:
            resume.set_aside_damaged(run, step)
    attempt = int(world.broadcast_bytes(str(run.attempt).encode() if world.is_main else None))
    with world.agreement():
        if world.local_rank == 0:
            clear_diagnostics(run.path)
    return aside, attempt


def _agreed_choices(
    config: Config, world: World, convolutions: Convolutions, files: Files | None, memory: SharedMemory | None
) -> Choices:
    """The choices of rank 0, which a checkpoint keeps, on every rank: machines may have other cores and processors."""
    with world.agreement():
        own = choose(
            config.train,
            config.distributed,
            world,
            convolutions,
            resume.choices(files),
            config.shards,
            can_share=memory is not None,
        )
    sent = world.broadcast_bytes(json.dumps(own.to_dict()).encode() if world.is_main else None)
    return Choices(**json.loads(sent))


def _left_early(report: Reporter, recorder: Recorder) -> None:
    """What a stop before the first step leaves; called in a thread, while the main one may be anywhere."""
    recorder.record_interruption("asked to stop before the first step")
    report.left_early()


def _open_saver(config: Config, run: RunDir, report: Reporter) -> Saver:
    def check() -> None:
        run.check_attempt()
        report.sync()  # no checkpoint is ahead of the ledger, after a power cut either

    return Saver(
        Store(run.checkpoints),
        keep_last=config.checkpoint.keep_last,
        asynchronous=config.checkpoint.asynchronous,
        check=check,
    )


def train_step(training: Training, batch: Batch, stop: bool = False, mark: Mark = ignore_mark) -> Tensor | None:
    """One optimizer step on a global batch; returns the note of all ranks (`parallel`), float [3].

    None if a rank had no data: then no rank makes the step. The gradient is the mean over the global batch at any
    number of ranks: a shard's sum of losses is divided by the samples of the whole batch, and multiplied by the number
    of ranks where the mean over them is taken. So shards may be unequal, and a rank without a sample takes part with a
    stand-in that weighs nothing.
    """
    reduction = training.reduction
    reduction.begin(stop=stop, void=batch.void)
    if training.whole_step and batch.step:  # the first step makes what the optimizer keeps, outside of any graph
        mark("forward", batch.step)
        (shard,) = batch.shards
        seed_step(training.seed, batch.step, shard.number, training.world.device)
        weight = training.loss_weight(shard, batch.count)
        loss, training.grad_norm = training.whole_step.one(shard.images, shard.labels, weight)
        reduction.noted(loss, counts=True)
        return reduction.finish()
    for shard in batch.shards:
        seed_step(training.seed, batch.step, shard.number, training.world.device)
        weight = training.loss_weight(shard, batch.count)
        pieces = training.cut(shard)
        with reduction.shard(counts=shard.share > 0):
            for number, (images, labels) in enumerate(pieces, start=1):
                with reduction.backward_pass(last=number == len(pieces)):
                    mark("forward", batch.step)
                    loss = training.loss_sum(images, labels)
                    noted = reduction.noted(loss, counts=shard.share > 0)
                    mark("backward", batch.step)
                    backward(training.scaled(noted), weight)
    note = reduction.finish()
    if reduction.is_void(note):
        reduction.undo()
        return None
    mark("update", batch.step)
    training.grad_norm = training.update()
    return note


@dataclass(frozen=True)
class _Run:
    """The parts of a run that has begun."""

    config: Config
    world: World
    directory: RunDir
    dataset: Dataset
    training: Training
    plan: Schedule
    report: Reporter
    saver: Saver
    stop: Stop
    recorder: Recorder
    about: dict[str, Any]
    """What each checkpoint says of this run."""

    def tell(self) -> bool:
        """Step after step, with what is due after each; at the end an evaluation and a checkpoint."""
        if self.world.is_main:
            best_step = self.training.best_step if self.config.checkpoint.keep_best else None
            self.saver.mend_links(best_step)
        try:
            self._train()
            if tested := self._tested():
                self.report.nothing_left(tested)
            else:
                self._conclude()
        except StopRequested:  # on every rank, after the same step
            self._save(is_best=False)
            self._finish_saving()
            self.report.stopped(self.stop.reason)
            return False
        return True

    def _train(self) -> None:
        training, plan = self.training, self.plan
        facts = StepResults(self.world.device)
        with self._batches() as batches:
            training.start(plan.largest_pass(self.world.size), self.dataset.shape)
            self.stop.begin_steps()
            self.world.barrier()  # a rank that was stopped before has left: no other may be in its first step
            if plan.is_evaluated(training.step) and training.evaluated_step != training.step:
                self._pause()  # an earlier start was stopped in it
            training.window.start_clock()
            while training.step < plan.total_steps:
                self._step(batches, facts)

    def _step(self, batches: TrainBatches, facts: StepResults) -> None:
        """One step, or some in one call, and what is due after it."""
        training, plan = self.training, self.plan
        self.recorder.mark("data", training.step)
        count = plan.together(training.step, training.steps_together)
        known = self._several(batches, count) if count > 1 else self._one(batches, facts)
        step = training.step
        is_last = self._learn(known)
        if plan.is_told(step):
            is_last |= self._learn(facts.rest())
        self.report.stepped(count)
        if plan.is_logged(step):
            self.report.trained(step, self._lr(step - 1), *training.window.read())
        if plan.is_evaluated(step) or plan.is_saved(step):
            with training.window.stopped_clock():
                self._pause()
        if is_last:
            raise StopRequested

    def _one(self, batches: TrainBatches, facts: StepResults) -> Iterable[StepResult]:
        """A step; gives what is known by now of it and of those before."""
        training = self.training
        batch = self._next(batches)
        lr = self._lr(training.step)
        training.set_lr(lr)
        note = train_step(training, batch, self.stop.reason is not None, self.recorder.mark)
        if note is None:
            raise StopRequested
        training.step += 1
        return facts.add(training.step, lr, batch.samples, note, training.grad_norm)

    def _several(self, batches: TrainBatches, count: int) -> Iterable[StepResult]:
        """`count` steps in one call; gives what there is to know of them."""
        training = self.training
        group = [self._next(batches) for _ in range(count)]
        lrs = [self._lr(batch.step) for batch in group]
        stops = float(self.stop.reason is not None)
        self.recorder.mark("forward", training.step)
        losses, norms = training.several(group, lrs)
        training.step += count
        return [
            StepResult(batch.step + 1, lr, batch.samples, loss, stops, norm)
            for batch, lr, loss, norm in zip(group, lrs, losses, norms, strict=True)
        ]

    def _lr(self, step: int) -> float:
        return lr_at(self.config.optim, step, self.plan.steps_per_epoch, self.plan.total_steps)

    def _next(self, batches: TrainBatches) -> Batch:
        """The next batch; a rank that is asked to stop while it waits for it takes part in a step that nobody makes."""
        if self.world.device.type == "cuda":
            return next(batches)  # what a rank says of a step is known there when the step has been made
        try:
            with self.stop.waiting():
                return next(batches)
        except StopRequested:
            if self.world.size == 1:
                raise
            return batches.stand_in(self.training.step)

    def _learn(self, facts: Iterable[StepResult]) -> bool:
        """Take in what is known of some steps by now; says whether a rank was asked to stop."""
        is_scaled = self.training.scaler is not None  # an infinite gradient is how its factor is found
        stops = 0.0
        for fact in facts:
            if not isfinite(fact.loss_sum) or not (is_scaled or isfinite(fact.grad_norm or 0)):
                self.training.step = fact.step  # others were made after it, before anybody knew
                raise self._non_finite(fact)
            self.training.window.add(fact.loss_sum, len(fact.samples))
            self.report.learned(fact)
            stops += fact.stops
        return stops > 0

    def _non_finite(self, fact: StepResult) -> NonFiniteError:
        # Of a gradient alone nobody knows whose it was, and on a GPU the newest losses are of a later step.
        is_anyones = isfinite(fact.loss_sum) or self.world.device.type == "cuda"
        is_own = is_anyones or not self.training.reduction.is_own_loss_finite()
        norm = "not measured (log.ledger is false)" if fact.grad_norm is None else fact.grad_norm
        return NonFiniteError(
            f"the loss of step {fact.step} is {fact.loss_sum / len(fact.samples)}, the gradient norm {norm}, at the "
            f"learning rate {fact.lr:g}; samples {fact.samples.tolist()}. A smaller optim.lr or a train.max_grad_norm "
            "may help",
            is_own,
        )

    def _batches(self) -> TrainBatches:
        return TrainBatches(
            self.dataset,
            self.config.data,
            self.config.run.seed,
            self.world,
            start_step=self.training.step,
            stop_step=self.plan.total_steps,
            memory_format=self.training.choices.memory_format,
            shards=self.config.shards,
        )

    def _pause(self) -> None:
        """Evaluate and save between two steps, as far as either is due; the best yet is saved if it is to be kept."""
        step = self.training.step
        is_best = self.plan.is_evaluated(step) and self._evaluate_while_training()
        self.training.evaluated_step = step
        if self.plan.is_saved(step) or (is_best and self.config.checkpoint.keep_best):
            self._save(is_best)

    def _conclude(self) -> None:
        """The last evaluation, always of the test split, and the last checkpoint."""
        if self.dataset.validation:
            is_best = self._evaluate_while_training()
            test = self._evaluate(self.dataset.test)
        else:
            test = self._evaluate(self.dataset.test)
            is_best = self.training.is_best(test.accuracy)
        self.training.evaluated_step = self.training.step
        self._save(is_best)
        self._finish_saving()
        self.report.done(test)

    def _tested(self) -> dict[str, Any] | None:
        """The test evaluation at this very step that an earlier start has made, the same on every rank."""
        found = json.dumps(self.report.tested(self.training.step)).encode() if self.world.is_main else None
        return json.loads(self.world.broadcast_bytes(found))  # type: ignore[no-any-return]

    def _evaluate_while_training(self) -> bool:
        """Evaluate what the best checkpoint is chosen by; says whether this is the best yet."""
        held_out = self.dataset.validation or self.dataset.test
        return self.training.is_best(self._evaluate(held_out).accuracy)

    def _evaluate(self, samples: Samples) -> Evaluation:
        training = self.training
        training.share_buffers()
        evaluation = evaluate(
            training.evaluated, samples, self.dataset, self.config.data, training.choices, self.world, self.stop,
            mark=lambda: self.recorder.mark("evaluate", training.step),
        )  # fmt: skip
        self.report.evaluated(training.step, evaluation)
        return evaluation

    def _save(self, is_best: bool) -> None:
        self.recorder.mark("save", self.training.step)
        files = self.training.files(self.plan.steps_per_epoch, self.about)
        self.report.saving()
        if self.world.is_main:  # at the very end: from here on the saver's thread wants the interpreter too
            link = "best" if is_best and self.config.checkpoint.keep_best else None
            self.saver.save(self.training.step, files, link)

    def _finish_saving(self) -> None:
        """Wait until the last checkpoint is on disk, and fail on every rank if it is not."""
        fault = (self.saver.finish() or "").encode() if self.world.is_main else None
        if found := self.world.broadcast_bytes(fault).decode():
            raise SaveError(f"{found}. It was the last one; the same command trains again what it held")
