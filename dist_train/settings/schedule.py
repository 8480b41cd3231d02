"""The schedule of a run: what is due after each step, derived from the settings and the size of the data."""

from dataclasses import dataclass

from dist_train.errors import ConfigError
from dist_train.settings.schema import Config


def steps_per_epoch(num_train: int, global_batch: int) -> int:
    """Return the steps of one epoch; the last one may have fewer samples than `global_batch`."""
    return -(-num_train // global_batch)


def samples_per_epoch(num_train: int, global_batch: int, drop_last: bool) -> int:
    """Return the training samples of one epoch: all, or those of its full batches.

    Raises:
        ConfigError: none is left.
    """
    if drop_last and num_train < global_batch:
        raise ConfigError(
            f"data.drop_last leaves nothing to train on: data.global_batch is {global_batch}, and there are "
            f"{num_train} training samples; lower data.global_batch"
        )
    return num_train - num_train % global_batch if drop_last else num_train


def check_ranks(config: Config, ranks: int) -> None:
    """Check that this number of ranks can train with these settings.

    Raises:
        ConfigError: the shards can't be divided equally among the ranks.
    """
    shards = config.shards
    if shards is not None and shards % ranks:
        allowed = [str(size) for size in range(1, shards + 1) if shards % size == 0]
        raise ConfigError(
            f"distributed.shards is {shards}, which {ranks} ranks can't share equally (run.reproducible is "
            f"bitwise): start {', '.join(allowed[:-1])} or {allowed[-1]} ranks, or change distributed.shards"
        )


@dataclass(frozen=True)
class Schedule:
    """What is due after each step; `step` is the number of finished optimizer steps, from 1."""

    num_train: int
    global_batch: int
    micro_batch: int | None
    steps_per_epoch: int
    total_steps: int
    log_every_steps: int
    save_every_steps: int
    evaluate_every_steps: int | None
    weights_every_steps: int
    shards: int | None
    """Virtual ranks of a global batch; None: the ranks themselves."""
    unfreeze_epochs: frozenset[int] = frozenset()
    """Numbers of finished epochs after which more parameters are trained."""

    @classmethod
    def from_config(cls, config: Config, num_train: int) -> "Schedule":
        """Derive the schedule for `num_train` training samples; `epochs` or `max_steps` ends it, whichever is less."""
        num_train = samples_per_epoch(num_train, config.data.global_batch, config.data.drop_last)
        per_epoch = steps_per_epoch(num_train, config.data.global_batch)
        ends = [config.train.epochs and config.train.epochs * per_epoch, config.train.max_steps]
        return cls(
            num_train=num_train,
            global_batch=config.data.global_batch,
            micro_batch=config.train.micro_batch,
            steps_per_epoch=per_epoch,
            total_steps=min(end for end in ends if end),
            log_every_steps=config.log.every_steps,
            save_every_steps=config.checkpoint.every_steps or per_epoch,
            evaluate_every_steps=config.eval.every_steps or config.eval.every_epochs * per_epoch or None,
            weights_every_steps=config.log.weights_every_steps,
            shards=config.shards,
            unfreeze_epochs=frozenset(map(int, config.model.unfreeze)),
        )

    def largest_pass(self, ranks: int) -> int:
        """Return the largest number of samples in one backward pass of a rank, with `ranks` ranks."""
        share = -(-min(self.global_batch, self.num_train) // (self.shards or ranks))
        return min(share, self.micro_batch or share)

    def smallest_pass(self, ranks: int) -> int:
        """Return the smallest number of samples, above 0, in one backward pass of a rank, with `ranks` ranks."""
        parts = self.shards or ranks
        batches = {min(self.global_batch, self.num_train)}
        if self.total_steps >= self.steps_per_epoch:
            batches.add(self.num_train % self.global_batch or self.global_batch)
        shares = {share for batch in batches for share in (batch // parts, -(-batch // parts)) if share}
        return min(share // -(-share // (self.micro_batch or share)) for share in shares)

    def epoch(self, step: int) -> int:
        """Return the number of finished epochs after `step`."""
        return step // self.steps_per_epoch

    def is_unfrozen(self, step: int) -> bool:
        """Whether more parameters are trained from this step on."""
        return step % self.steps_per_epoch == 0 and self.epoch(step) in self.unfreeze_epochs

    def is_logged(self, step: int) -> bool:
        return step % self.log_every_steps == 0 or step == self.total_steps

    def is_hashed(self, step: int) -> bool:
        """Whether the ledger records a hash of the weights after this step."""
        return step % self.weights_every_steps == 0 or step == self.total_steps

    def is_saved(self, step: int) -> bool:
        """Whether a checkpoint is due; the one at the end of the run is not included."""
        return step % self.save_every_steps == 0 and step < self.total_steps

    def is_evaluated(self, step: int) -> bool:
        """Whether an evaluation is due; the one at the end of the run is not included."""
        return self.has_evaluation(step) and step < self.total_steps

    def has_evaluation(self, step: int) -> bool:
        """Whether a run that goes on after this step evaluates there."""
        every = self.evaluate_every_steps
        return every is not None and step % every == 0
