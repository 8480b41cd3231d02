"""The training loop: `train` repeats `train_step` and does what is due after each step."""

from torch import Tensor

from dist_train.data.batches import Batch
from dist_train.diagnostics.recorder import Mark, ignore_mark
from dist_train.distributed.reduction import GradientReduction
from dist_train.distributed.world import World
from dist_train.execution.lazy_dynamo import backward
from dist_train.seeds import seed_step
from dist_train.settings.schema import Config
from dist_train.system.stop_signals import Stop
from dist_train.tasks.task import Task
from dist_train.training.setup import open_training
from dist_train.training.state import TrainState


def train(config: Config, world: World, stop: Stop | None = None, command: str = "the same command") -> bool:
    """Train what `config` says, from the run's newest checkpoint on.

    Args:
        stop: whether this process is asked to stop; default: it never is.
        command: what a user gives to continue after a failure.

    Returns:
        Whether the run is done; if not, a rank was asked to stop, and the same command continues.

    Raises:
        UserError: settings, data, run directory or checkpoint do not fit together, and nothing was written; or, with
            the loader `workers`, an image can't be read, or another process has taken the run over.
        NonFiniteError: the loss or a gradient is infinite or NaN.
        SaveError: the last checkpoint could not be written.
        StopRequested: a rank of several was asked to stop and got no data in time.
        OwnCodeError: the user's code fails.
    """
    with open_training(config, world, stop or Stop(), command) as run:
        state, schedule = run.state, run.schedule
        run.start()
        if run.is_evaluation_pending() and not run.evaluate():
            return run.save_and_stop()
        if run.has_new_best:
            run.save()
        while not run.is_over():
            batch = run.next_batch()
            if batch is None:
                return run.save_and_stop()
            lr = state.set_learning_rates(run.rates)
            scalars, grad_norm = train_step(
                state,
                run.reduction,
                run.task,
                batch,
                config,
                stop_requested=run.stop.reason is not None,
                mark=run.recorder.mark,
            )
            state.step += 1
            run.record_step(lr, batch, scalars, grad_norm)
            if schedule.is_evaluated(state.step) and not run.evaluate():
                return run.save_and_stop()
            if schedule.is_saved(state.step) or run.has_new_best:
                run.save()
            if run.stop_requested:
                return run.save_and_stop()
            if schedule.is_unfrozen(state.step):
                run.unfreeze()
        return run.finish()


def train_step(
    state: TrainState,
    reduction: GradientReduction,
    task: Task,
    batch: Batch,
    config: Config,
    stop_requested: bool = False,
    mark: Mark = ignore_mark,
) -> tuple[Tensor, Tensor | None]:
    """Make one optimizer step on a global batch.

    The gradient is the mean over the global batch at any number of ranks: a shard's sum of losses is divided by the
    samples of the whole batch, and multiplied by the number of ranks if DDP averages over them. So shards may be
    unequal, and a rank without a sample takes part with a placeholder of weight 0.

    Args:
        task: says what the loss is.
        batch: this rank's part of it.
        stop_requested: whether this rank asks all ranks to stop after this step.
        mark: called with the name of each phase and the step.

    Returns:
        Scalars over all ranks, float [2] (loss sum and stop requests), and the gradient norm before clipping, float []
        or None. On a GPU neither is known to the host yet.
    """
    reduction.begin(stop_requested)
    task.begin_step(batch)
    for shard in batch.shards:
        has_samples = shard.num_samples > 0
        seed_step(config.run.seed, batch.step, shard.number, state.device)
        weight = reduction.loss_weight(batch.count, has_samples)
        with reduction.shard(has_samples):
            for each in shard.passes:
                with reduction.backward_pass(is_last=each is shard.passes[-1]):
                    mark("forward", batch.step)
                    with state.autocast():
                        loss = task.loss_sum(reduction.model(each.inputs), each.targets, each.num_samples)
                    mark("backward", batch.step)
                    backward(state.scale(reduction.record_loss(loss, has_samples)), weight)
    scalars = reduction.finish()  # from here on `grad` is the mean over the global batch
    mark("update", batch.step)
    grad_norm = state.clip_gradients(reduction.gradients())
    state.update_parameters()
    return scalars, grad_norm
