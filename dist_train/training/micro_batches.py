"""The passes of a shard, of which each accumulates its gradients."""

from collections.abc import Iterator

from dist_train.data.batches import Shard
from dist_train.nest import Nest, map_tensors
from dist_train.settings.schema import Train


def micro_batches(shard: Shard, train: Train) -> Iterator[tuple[Nest, Nest, int, bool]]:
    """Yield (inputs, targets, num_samples, is_last) of each pass of a shard."""
    if shard.num_samples == 0 and train.sync_batchnorm:
        # The statistics are over all ranks and would count the placeholder; torch takes an empty batch for none.
        placeholder = shard.passes[0]
        inputs, targets = map_tensors(lambda tensor: tensor[:0], (placeholder.inputs, placeholder.targets))
        yield inputs, targets, 0, True
        return
    for number, each in enumerate(shard.passes, start=1):
        yield each.inputs, each.targets, each.num_samples, number == len(shard.passes)
