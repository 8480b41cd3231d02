"""The story of a run: `train`, and `train_step`, which it tells again and again."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dist_train import checkpoint, resume
from dist_train.choices import apply_to_process, choose
from dist_train.config import Config
from dist_train.data import Dataset, Samples, open_dataset
from dist_train.data.batches import Batch, TrainBatches
from dist_train.evaluate import Evaluation, evaluate
from dist_train.models import build_model, check_passes
from dist_train.optim import lr_at
from dist_train.plan import Plan
from dist_train.recorder import Mark, Recorder, clear, next_attempt, open_recorder, unmarked
from dist_train.report import Report, open_report
from dist_train.rundir import RunDir
from dist_train.seeds import seed_step
from dist_train.training import Training
from dist_train.world import World


def train(config: Config, world: World) -> None:
    """Train what `config` says, from where the run's newest checkpoint left off.

    Raises:
        UserError: settings, data, run directory or checkpoint do not go together, and nothing was written; or, with
            the loader `workers`, a picture can't be read.
    """
    run, anew = RunDir(config.run.dir), config.run.resume == "never"
    with world.agreement():
        dataset = open_dataset(config.data, config.run.seed, world)
        network = build_model(config.model, dataset.shape, len(dataset.classes), config.run.seed)
        if world.is_main:
            run.check_usable(anew)
    files = resume.load(config, run, world)
    with world.agreement():
        choices = choose(config.train, config.distributed, world, network, resume.choices(files))
        apply_to_process(choices, config.run.deterministic, world.device)
        training = Training(config, network, choices, world)
        if files:
            training.restore(files)
        plan = Plan.of(config, len(dataset.train))
        check_passes(network, dataset.shape, plan.smallest_pass(world.size))
    with world.agreement():
        aside = run.claim(anew) if world.is_main else None
        if world.is_main:
            resume.check_newest(run, training.step)
        attempt = next_attempt(run.path) if world.is_main else 0
    attempt = int(world.broadcast_bytes(str(attempt).encode()))
    with world.agreement():
        if world.local_rank == 0:
            clear(run.path)
    with (
        open_recorder(run.path, world, attempt, config.distributed.stall_minutes, "the same command") as recorder,
        open_report(config, run, dataset, training, plan, world) as report,
    ):
        if aside:
            report.moved_aside(aside)
        if files:
            report.resumed(resume.other_bits(files, choices, world))
        _Run(config, world, run, dataset, training, plan, report, recorder).tell()


def train_step(training: Training, batch: Batch, mark: Mark = unmarked) -> Tensor:
    """One optimizer step on a global batch; returns the sum of losses over this rank's share, float32 [].

    The gradient is the mean over the global batch at any number of ranks: a rank's sum of losses is divided by the
    samples of the whole batch, and multiplied by the number of ranks because DDP takes the mean over them. So shares
    may be unequal, and a rank without a sample takes part with a stand-in that weighs nothing.
    """
    training.optimizer.zero_grad(set_to_none=True)
    weight = training.loss_weight(batch)
    pieces = training.cut(batch)
    losses = []
    mark("forward", batch.step)
    for number, (pictures, labels) in enumerate(pieces, start=1):
        with training.gradients(shared=number == len(pieces)):
            loss = training.loss_sum(pictures, labels)
            mark("backward", batch.step)
            training.scaled(loss).backward(weight)  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
    mark("update", batch.step)
    training.update()
    return sum(losses[1:], start=losses[0]) * (batch.share > 0)


@dataclass(frozen=True)
class _Run:
    """The parts of a run that has begun."""

    config: Config
    world: World
    directory: RunDir
    dataset: Dataset
    training: Training
    plan: Plan
    report: Report
    recorder: Recorder

    def tell(self) -> None:
        """Step after step, with what is due after each; at the end an evaluation and a checkpoint."""
        training, plan, report = self.training, self.plan, self.report
        if self.world.is_main:
            best_step = training.best_step if self.config.checkpoint.keep_best else None
            checkpoint.mend_links(self.directory.checkpoints, best_step)
        with self._batches() as batches:
            training.start(self.plan.largest_pass(self.world.size), self.dataset.shape)
            training.window.start_clock()
            for batch in self._marked(batches):
                lr = lr_at(self.config.optim, training.step, plan.steps_per_epoch, plan.total_steps)
                training.set_lr(lr)
                seed_step(self.config.run.seed, training.step, self.world.rank, self.world.device)
                training.window.add(train_step(training, batch, self.recorder.mark), batch.count)
                training.step += 1
                report.stepped()
                if plan.is_logged(training.step):
                    report.trained(training.step, lr, *training.window.read(self.world))
                if plan.is_evaluated(training.step) or plan.is_saved(training.step):
                    with training.window.stopped_clock():
                        self._pause()
        if tested := self._tested():
            report.nothing_left(tested)
        else:
            self._conclude()

    def _marked(self, batches: TrainBatches) -> Iterator[Batch]:
        """The batches; that a rank waits for the next is noted."""
        self.recorder.mark("data", self.training.step)
        for batch in batches:
            yield batch
            self.recorder.mark("data", self.training.step)

    def _batches(self) -> TrainBatches:
        return TrainBatches(
            self.dataset,
            self.config.data,
            self.config.run.seed,
            self.world,
            start_step=self.training.step,
            stop_step=self.plan.total_steps,
            memory_format=self.training.choices.memory_format,
        )

    def _pause(self) -> None:
        """Evaluate and save between two steps, as far as either is due; the best yet is saved if it is to be kept."""
        step = self.training.step
        is_best = self.plan.is_evaluated(step) and self._evaluate_while_training()
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
        self._save(is_best)
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
        self.recorder.mark("evaluate", self.training.step)
        self.training.share_buffers()
        evaluation = evaluate(
            self.training.evaluated, samples, self.dataset, self.config.data, self.training.choices, self.world
        )
        self.report.evaluated(self.training.step, evaluation)
        return evaluation

    def _save(self, is_best: bool) -> None:
        self.recorder.mark("save", self.training.step)
        files = self.training.files(
            self.plan.steps_per_epoch, resume.about(self.config, self.training.choices, self.world)
        )
        if self.world.is_main:
            link = "best" if is_best and self.config.checkpoint.keep_best else None
            checkpoint.save(self.directory.checkpoints, self.training.step, files, link)
            checkpoint.prune(self.directory.checkpoints, self.config.checkpoint.keep_last)
        self.report.saved()
