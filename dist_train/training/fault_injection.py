"""The one fault of a drill that nothing outside of a rank can cause: images that are not numbers."""

import math
import os
from collections.abc import Mapping

from dist_train.data.batches import Batch, TrainBatches

NAN_STEP = "DIST_TRAIN_NAN_STEP"
"""Variable that `dist-train drill` sets: number of the step, from 1, whose images are spoiled."""


def inject_nan_images(environ: Mapping[str, str] = os.environ) -> None:
    """Spoil the images of one step of this process, if a drill wants it."""
    if NAN_STEP not in environ:
        return
    spoiled, take = int(environ[NAN_STEP]) - 1, TrainBatches.__next__

    def take_spoiled(batches: TrainBatches) -> Batch:
        batch = take(batches)
        if batch.step == spoiled:
            for shard in batch.shards:
                shard.images.fill_(math.nan)
        return batch

    TrainBatches.__next__ = take_spoiled  # type: ignore[assignment, method-assign]
