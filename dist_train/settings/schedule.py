"""What is due after which step: numbers derived once from the settings and the size of the data."""

from dataclasses import dataclass

from dist_train.errors import ConfigError
from dist_train.settings.schema import Config


def steps_per_epoch(num_train: int, global_batch: int) -> int:
    """Steps that pass once over `num_train` samples; the last one may hold fewer than `global_batch`."""
    return -(-num_train // global_batch)


def check_ranks(config: Config, ranks: int) -> None:
    """Find out whether so many ranks can train this.

    Raises:
        ConfigError: they can't share the shards equally.
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
    """Steps are counted from 1 here: `step` is the number of finished optimizer steps."""

    num_train: int
    global_batch: int
    micro_batch: int | None
    steps_per_epoch: int
    total_steps: int
    log_every: int
    save_every: int
    evaluate_every: int | None
    weights_every_steps: int
    shards: int | None
    """Into how many a global batch is cut; None: one a rank."""

    @classmethod
    def of(cls, config: Config, num_train: int) -> "Schedule":
        """The plan for `num_train` training samples: `train.epochs` or `train.max_steps` ends it, whichever is less."""
        per_epoch = steps_per_epoch(num_train, config.data.global_batch)
        ends = [config.train.epochs and config.train.epochs * per_epoch, config.train.max_steps]
        return cls(
            num_train=num_train,
            global_batch=config.data.global_batch,
            micro_batch=config.train.micro_batch,
            steps_per_epoch=per_epoch,
            total_steps=min(end for end in ends if end),
            log_every=config.log.every_steps,
            save_every=config.checkpoint.every_steps or per_epoch,
            evaluate_every=config.eval.every_epochs * per_epoch or None,
            weights_every_steps=config.log.weights_every_steps,
            shards=config.shards,
        )

    def largest_pass(self, ranks: int) -> int:
        """Most samples that one of `ranks` ranks takes through one backward pass."""
        share = -(-min(self.global_batch, self.num_train) // (self.shards or ranks))
        return min(share, self.micro_batch or share)

    def smallest_pass(self, ranks: int) -> int:
        """Fewest samples that one of `ranks` ranks takes through one backward pass, of those that take any."""
        parts = self.shards or ranks
        batches = {min(self.global_batch, self.num_train)}
        if self.total_steps >= self.steps_per_epoch:
            batches.add(self.num_train % self.global_batch or self.global_batch)
        shares = {share for batch in batches for share in (batch // parts, -(-batch // parts)) if share}
        return min(share // -(-share // (self.micro_batch or share)) for share in shares)

    def epoch(self, step: int) -> int:
        """Finished epochs after `step`."""
        return step // self.steps_per_epoch

    def is_logged(self, step: int) -> bool:
        return step % self.log_every == 0 or step == self.total_steps

    def needs_results(self, step: int) -> bool:
        """Whether all numbers of this step have to be known before the next."""
        return self.is_logged(step) or self.is_saved(step) or self.is_evaluated(step) or self.is_hashed(step)

    def is_hashed(self, step: int) -> bool:
        """Whether the ledger's line of this step has a hash of the weights."""
        return step % self.weights_every_steps == 0 or step == self.total_steps

    def is_saved(self, step: int) -> bool:
        """Whether a checkpoint is due before the one at the end, which every run has."""
        return step % self.save_every == 0 and step < self.total_steps

    def is_evaluated(self, step: int) -> bool:
        """Whether held-out data are due while training, before the evaluation at the end, which every run has."""
        return self.evaluate_every is not None and step % self.evaluate_every == 0 and step < self.total_steps
