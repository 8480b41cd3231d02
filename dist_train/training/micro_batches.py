"""Cut a shard of a batch for gradient accumulation."""

from collections.abc import Iterator
from functools import partial

import torch

from dist_train.data.batches import Shard
from dist_train.data.sampler import PLACEHOLDERS
from dist_train.nest import Nest, map_tensors, split_nest
from dist_train.settings.schema import Train


def micro_batches(shard: Shard, train: Train) -> Iterator[tuple[Nest, Nest, int, bool]]:
    """Yield (inputs, targets, num_samples, is_last) of nearly equal parts of at most `train.micro_batch` samples."""
    inputs, targets, size = shard.inputs, shard.targets, shard.num_samples or PLACEHOLDERS
    if shard.num_samples == 0 and train.sync_batchnorm:
        # The statistics are over all ranks and would count the placeholder; torch takes an empty batch for none.
        (inputs, targets), size = map_tensors(lambda tensor: tensor[:0], (inputs, targets)), 0
    count = -(-size // (train.micro_batch or size)) if size else 1
    if count == 1:
        yield inputs, targets, size, True
        return
    sizes = [size // count + (number < size % count) for number in range(count)]
    parts = (split_nest(nest, partial(torch.split, split_size_or_sections=sizes)) for nest in (inputs, targets))
    for number, (part, part_targets, part_size) in enumerate(zip(*parts, sizes, strict=True), start=1):
        yield part, part_targets, part_size, number == count
