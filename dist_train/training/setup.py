"""Open all parts of a training; all ranks refuse together, and nothing is half written."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dist_train.checkpoint import resume
from dist_train.checkpoint.saver import Saver
from dist_train.checkpoint.serialization import Files
from dist_train.checkpoint.store import Store
from dist_train.data import Dataset, Samples, TrainBatches, open_dataset
from dist_train.data.orders.order import build_order
from dist_train.diagnostics.postmortem import describe_unreported_end
from dist_train.diagnostics.recorder import Recorder, clear_diagnostics, open_recorder
from dist_train.distributed.ddp import DDPReduction
from dist_train.distributed.reduction import GradientReduction, SingleProcess
from dist_train.distributed.sharded_tree import ShardedTreeReduction
from dist_train.distributed.shared_memory import SharedMemory, open_shared_memory
from dist_train.distributed.world import World
from dist_train.errors import ConfigError
from dist_train.evaluate import try_out
from dist_train.execution.auto_settings import (
    AutoSettings,
    Convolutions,
    apply_to_process,
    decide,
    measure_convolutions,
)
from dist_train.execution.deterministic import check_deterministic
from dist_train.execution.gpu import bind_to_near_cores
from dist_train.execution.lazy_dynamo import defer_dynamo_import
from dist_train.models import build_model, check_passes, import_library
from dist_train.models.freeze import find_frozen, set_frozen
from dist_train.nest import move_inputs
from dist_train.optim.groups import ParameterGroup, find_groups
from dist_train.optim.lr_schedule import LrSchedule
from dist_train.own_code.copies import Code, collect_code
from dist_train.own_code.load import own_failures
from dist_train.run_dir import RunDir
from dist_train.seeds import seed_step
from dist_train.settings.loading.references import list_references
from dist_train.settings.schedule import Schedule, check_ranks
from dist_train.settings.schema import Config, OwnModel
from dist_train.settings.tasks import find_ignored_label
from dist_train.system.allocator import keep_freed_memory
from dist_train.system.stop_signals import Stop
from dist_train.tasks import Task, build_task
from dist_train.training.callbacks import Callbacks, RunView
from dist_train.training.initial_weights import load_initial_weights, share_initial_weights
from dist_train.training.reporter import Reporter, open_reporter
from dist_train.training.run import TrainingRun
from dist_train.training.state import TrainState
from dist_train.training.step_results import StepResults


@dataclass(frozen=True)
class _Plan:
    """Data, task and network of a training, found by each rank before anything is written."""

    checkpoint: Files | None
    """Files of the checkpoint that the run continues from; None at step 0."""
    dataset: Dataset
    held_out: tuple[Samples, ...]
    """The splits that are evaluated: the first during training, all at the end."""
    schedule: Schedule
    rates: LrSchedule
    task: Task
    network: nn.Module
    code: Code


@contextmanager
def open_training(config: Config, world: World, stop: Stop, command: str) -> Iterator[TrainingRun]:
    """Open the parts of a training, ready for its next step; close them when the block ends.

    Every rank calls this. Raises as `train` does.
    """
    if config.train.compile == "off":
        defer_dynamo_import()
    allocator = keep_freed_memory() if config.distributed.allocator == "auto" else "system"
    directory = RunDir(config.run.dir)
    # A restarted rank resumes the run that its predecessor began.
    is_fresh_start = config.run.resume == "never" and not directory.was_begun_before_restart()
    with world.agreement():
        check_ranks(config, world.size)
        if world.is_main:
            directory.check_usable(is_fresh_start)
    plan = _make_plan(config, world, resume.load(config, directory, world, is_fresh_start))
    memory = open_shared_memory(config.distributed, world)
    auto_settings = _agree_on_auto_settings(config, world, plan, can_share=memory is not None)
    state, callbacks = _open_state(config, world, plan, auto_settings)
    moved_aside, lost, attempt = _claim_directory(directory, is_fresh_start, world, state.step)
    with (
        open_reporter(
            config, plan.code, directory, plan.dataset, plan.held_out, state, plan.schedule, world, allocator
        ) as reporter,
        open_recorder(
            directory.path, world, attempt, config.distributed.stall_minutes, command, lambda: stop.reason is not None
        ) as recorder,
        _open_saver(config, directory, reporter) as saver,
        _open_batches(config, world, plan, state, stop) as batches,
        own_failures(lambda: f"after {state.step} steps, on rank {world.rank}"),
    ):
        recorder.call_before_exit(reporter.report_failure)
        stop.on_early_stop = lambda: _leave_early(reporter, recorder)  # before `status.json` says that the run goes on
        changes = resume.describe_changes(plan.checkpoint, config, auto_settings, world, plan.code)
        reporter.report_start(moved_aside, lost, changes)
        if world.is_main:
            saver.repair(state.best_step if config.checkpoint.keep_best else None)
        build_reduction = partial(_build_reduction, config, world, plan, state, memory)
        reduction = build_reduction()
        stop.begin_steps()
        world.barrier()  # a rank that was stopped before has left: no other may be in its first step
        state.window.start_clock()
        yield TrainingRun(
            config, world, plan.dataset, plan.held_out, plan.task, plan.schedule, plan.rates, state, reduction, batches,
            StepResults(world.device), reporter, recorder, saver, callbacks,
            RunView(config, directory.path, world.rank, world.size, plan.schedule.total_steps, state, plan.schedule),
            stop, about=resume.describe_run(config, auto_settings, world, plan.dataset.identity, plan.code),
            build_reduction=build_reduction,
        )  # fmt: skip


def _make_plan(config: Config, world: World, checkpoint: Files | None) -> _Plan:
    """Open the data, build the task and the network, and find the user's code; all ranks have to have the same."""
    with world.agreement(), own_failures(lambda: f"before the first step, on rank {world.rank}"):
        import_library(config.model)  # before data are downloaded
        stored = resume.read_data_identity(checkpoint)
        dataset = open_dataset(config.data, config.run.seed, world, stored, find_ignored_label(config))
        accepts = config.data.accept_changes
        resume.check_data(checkpoint, stored, dataset.identity, accept_changes=accepts)
        if config.train.overfit_batches:
            dataset = dataset.keep_first(config.train.overfit_batches * config.data.global_batch)
        schedule = Schedule.from_config(config, len(dataset.train))
        first = torch.zeros(1, dtype=torch.int64)
        build_order(config.data, dataset.train, config.run.seed).take(first, epoch=0)  # raises before the run begins
        rates = LrSchedule(config.optim, schedule.steps_per_epoch, schedule.total_steps)
        held_out = _order_held_out(config, dataset)
        task = build_task(config, dataset.classes, world, counts_confusion=config.log.tensorboard)
        example, _ = dataset.make_example(1)
        network = build_model(config.model, dataset.shape, len(dataset.classes), config.run.seed, example)
        if checkpoint is None and world.is_main:
            load_initial_weights(config, network)
        code = collect_code(list_references(config))
    world.check_equal("data", {**dataset.identity.list_facts(), **_describe_code(code)})
    world.check_equal("model", _describe_network(network))
    if checkpoint is None:
        share_initial_weights(config, network, world)
    return _Plan(checkpoint, dataset, held_out, schedule, rates, task, network, code)


def _open_state(config: Config, world: World, plan: _Plan, auto_settings: AutoSettings) -> tuple[TrainState, Callbacks]:
    """Prepare the process, load the checkpoint, and try out what a step and an evaluation call."""
    with world.agreement(), own_failures(lambda: f"before the first step, on rank {world.rank}"):
        apply_to_process(auto_settings, config.is_deterministic, world.device)
        if config.distributed.binding == "auto":
            bind_to_near_cores(world.device)
        if config.train.compile == "model":
            from dist_train.execution.compile import check_compiler

            check_compiler(world.device)
        state = TrainState(config, plan.network, auto_settings, world, plan.checkpoint, plan.held_out[0].split)
        callbacks = Callbacks(config.callbacks, plan.checkpoint)
        if not torch.is_grad_enabled():
            raise ConfigError(
                "model: torch computes no gradients, because code of your own has turned them off for good; use "
                "`with torch.no_grad():` there instead of torch.set_grad_enabled(False)"
            )
        last_epoch = plan.schedule.epoch(plan.schedule.total_steps - 1)
        set_frozen(state.network, state.frozen, last_epoch)  # also what is trained later
        counted_together = 1 if auto_settings.sync_batchnorm else world.size
        check_passes(state.network, plan.dataset.make_example(1)[0], plan.schedule.smallest_pass(counted_together))
        try_out(plan.task, state.network, plan.dataset, auto_settings, world)
        if config.is_deterministic:
            check_deterministic(state.network, _make_trial(2, state, plan), state.autocast())
        state.unfreeze(plan.schedule.epoch(state.step))
    return state, callbacks


class OpenNetwork(NamedTuple):
    """A network as a training begins with it, but for weights of other networks."""

    network: nn.Module
    """Parameters that are frozen in the first epoch take no gradients."""
    dataset: Dataset
    groups: list[ParameterGroup]
    """Groups of the optimizer, including parameters that are trained in a later epoch."""


def open_network(config: Config) -> OpenNetwork:
    """Build the network for the data of the settings, without a training; raises UserError."""
    dataset = open_dataset(config.data, config.run.seed, World(), ignored_label=find_ignored_label(config))
    example, _ = dataset.make_example(1)
    network = build_model(config.model, dataset.shape, len(dataset.classes), config.run.seed, example)
    frozen = find_frozen(config.model, network)
    set_frozen(network, frozen, epoch=10**9)
    groups = find_groups(config.optim, network)
    set_frozen(network, frozen, epoch=0)
    return OpenNetwork(network, dataset, groups)


def _order_held_out(config: Config, dataset: Dataset) -> tuple[Samples, ...]:
    """Return the splits that are evaluated, that of `checkpoint.split` first; raises ConfigError."""
    wanted, there = config.checkpoint.split, dataset.held_out
    if wanted != "auto" and wanted not in [samples.split for samples in there]:
        how = "data.validation=0.1 makes one" if wanted == "validation" else "use checkpoint.split=validation"
        raise ConfigError(f"checkpoint.split is {wanted}, but the data have no such split; {how}")
    return tuple(sorted(there, key=lambda samples: samples.split != wanted))


def _describe_network(network: nn.Module) -> dict[str, str]:
    """Return what must be equal on all ranks: the user's code may build another network on some of them."""
    values = (*network.named_parameters(), *network.named_buffers())
    return {name: f"{list(value.shape)} {value.dtype}" for name, value in values}


def _describe_code(code: Code) -> dict[str, str]:
    """Return what must be equal on all ranks: each machine may have its own copy of the user's code."""
    return {f"SHA-256 of {name}": digest for name, digest in code.digests().items()}


def _agree_on_auto_settings(config: Config, world: World, plan: _Plan, *, can_share: bool) -> AutoSettings:
    """Decide on rank 0 and send the decisions to every rank: machines may have other cores and processors."""
    with world.agreement():
        convolutions = Convolutions(
            work=max(measure_convolutions(plan.network, plan.dataset.make_example(1)[0]), default=0),
            samples=plan.schedule.largest_pass(world.size),
            samples_of_one=plan.schedule.largest_pass(1),
        )
        stored = resume.read_auto_settings(plan.checkpoint)
        own = decide(config.train, config.distributed, world, convolutions, stored, config.shards, can_share=can_share)
    sent = world.broadcast_bytes(json.dumps(own.to_dict()).encode() if world.is_main else None)
    return AutoSettings(**json.loads(sent))


def _claim_directory(
    directory: RunDir, is_fresh_start: bool, world: World, step: int
) -> tuple[Path | None, str | None, int]:
    """Claim the run's directory for a training that continues at `step`.

    Returns:
        The new path of an earlier run that was moved, or None; how the start before was lost, if nothing has reported
        it, or None; both on rank 0 only. And the number of this start.
    """
    with world.agreement():
        is_restart = directory.was_begun_before_restart()  # then the launcher has printed how ranks were lost
        lost = describe_unreported_end(directory.path) if world.is_main and not is_restart else None
        moved_aside = directory.claim(is_fresh_start) if world.is_main else None
        if world.is_main:
            resume.set_aside_damaged(directory, step)
    attempt = int(world.broadcast_bytes(str(directory.attempt).encode() if world.is_main else None))
    with world.agreement():
        if world.local_rank == 0:
            clear_diagnostics(directory.path)
    return moved_aside, lost, attempt


def _open_saver(config: Config, directory: RunDir, reporter: Reporter) -> Saver:
    def check() -> None:
        directory.check_attempt()
        reporter.sync_ledger()  # no checkpoint is ahead of the ledger, after a power cut either

    return Saver(
        Store(directory.checkpoints),
        keep_last=config.checkpoint.keep_last,
        asynchronous=config.checkpoint.asynchronous,
        check=check,
        saved=reporter.record_save,
    )


def _open_batches(config: Config, world: World, plan: _Plan, state: TrainState, stop: Stop) -> TrainBatches:
    return TrainBatches(
        plan.dataset,
        config.data,
        config.run.seed,
        world,
        start_step=state.step,
        stop_step=plan.schedule.total_steps,
        memory_format=state.auto_settings.memory_format,
        shards=config.shards,
        stop=stop,
        micro_batch=config.train.micro_batch,
    )


def _build_reduction(
    config: Config, world: World, plan: _Plan, state: TrainState, memory: SharedMemory | None
) -> GradientReduction:
    """Compile the network if wanted, and wrap it for this world."""
    model, network = state.network, state.network
    memory = memory if state.auto_settings.shared_memory else None
    if config.train.compile == "model":
        from dist_train.execution.compile import CompiledModel

        model = CompiledModel(network, config.train.compile_mode)
    if config.shards:
        return ShardedTreeReduction(model, network, world, memory)
    if world.size == 1:
        return SingleProcess(model, network, world)
    # A graph is compiled for the shape of the training's own batches. Without one, two samples are enough: the fewest
    # that batch normalisation takes.
    samples = max(2, plan.schedule.largest_pass(world.size)) if config.train.compile == "model" else 2
    seed_step(config.run.seed, 0, 0, world.device)  # a network may draw which parameters take part in a pass
    with state.autocast():
        trial = _make_trial(samples, state, plan)
        wanted = config.distributed.find_unused_parameters
        find_unused = wanted == "on" or (wanted == "auto" and isinstance(config.model, OwnModel))
        return DDPReduction(
            model, network, world, trial, memory, config.distributed.compression, find_unused,
            state.auto_settings.sync_batchnorm,
        )  # fmt: skip


def _make_trial(samples: int, state: TrainState, plan: _Plan) -> Callable[[nn.Module], Tensor]:
    """Return a function that calls a model with some samples, on this rank's device, and returns their loss."""
    inputs, targets = move_inputs(plan.dataset.make_example(samples), state.device, state.auto_settings.memory_format)
    return lambda model: plan.task.loss_sum(model(inputs), targets, samples)


def _leave_early(reporter: Reporter, recorder: Recorder) -> None:
    """Record a stop before the first step; called in a thread, while the main one may be anywhere."""
    recorder.record_interruption("asked to stop before the first step")
    reporter.report_early_stop()
