"""The fault of a drill that must be injected inside a rank: NaN inputs."""

import math
import os
from collections.abc import Mapping

from torch import Tensor

from dist_train.data.batches import Batch, TrainBatches
from dist_train.nest import list_tensors
from dist_train.system.environment import read_number

NAN_STEP = "DIST_TRAIN_NAN_STEP"
"""Environment variable that `dist-train drill` sets: the number, from 1, of the step that gets NaN inputs."""


def inject_nan_inputs(environ: Mapping[str, str] = os.environ) -> None:
    """Fill the inputs of one step with NaN, if the environment variable asks for it."""
    if NAN_STEP not in environ:
        return
    nan_step, read_next = read_number(environ, NAN_STEP) - 1, TrainBatches.__next__

    def read_next_with_nan(batches: TrainBatches) -> Batch:
        batch = read_next(batches)
        if batch.step == nan_step:
            for shard in batch.shards:
                for tensor in filter(Tensor.is_floating_point, list_tensors([each.inputs for each in shard.passes])):
                    tensor.fill_(math.nan)
        return batch

    TrainBatches.__next__ = read_next_with_nan  # type: ignore[assignment, method-assign]
