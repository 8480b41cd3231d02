"""Cut a shard of a batch for gradient accumulation."""

from collections.abc import Iterator

import torch
from torch import Tensor

from dist_train.data.batches import Shard
from dist_train.settings.schema import Train


def micro_batches(shard: Shard, train: Train) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """Yield (images, labels, is_last) of nearly equal parts of at most `train.micro_batch` samples."""
    images, labels = shard.images, shard.labels
    if shard.num_samples == 0 and train.sync_batchnorm:
        # The statistics are over all ranks and would count the placeholder; torch takes an empty batch for none.
        images, labels = images[:0], labels[:0]
    count = -(-len(labels) // (train.micro_batch or len(labels))) if len(labels) else 1
    if count == 1:
        yield images, labels, True
        return
    parts = zip(torch.tensor_split(images, count), torch.tensor_split(labels, count), strict=True)
    for number, (part, part_labels) in enumerate(parts, start=1):
        yield part, part_labels, number == count
