"""Samples: from files, or from the user's data set, to batches on the device.

    open_dataset     find, download and decode a data set once per machine (`cache`), or call the user's class
    open_split       one split of it, for an evaluation
    TrainBatches     the batches of this rank, all epochs in one stream, from any step on
    eval_batches     the evaluation batches of this rank, the same batches at every world size

A module in `datasets/` for each kind of data set (such as `mnist`, `image_folder`, `table`) finds its files and reads
them; `registry` holds the table of data sets. `own/` reads the data sets of users. A batch is a function of the
settings, the seed and the step.
"""

from dist_train.data.batches import Batch, EvalBatch, TrainBatches, eval_batches
from dist_train.data.registry import open_dataset, open_split
from dist_train.data.sampler import GlobalBatchSampler
from dist_train.data.samples import DataFormat, Dataset, Samples

__all__ = [
    "Batch",
    "DataFormat",
    "Dataset",
    "EvalBatch",
    "GlobalBatchSampler",
    "Samples",
    "TrainBatches",
    "eval_batches",
    "open_dataset",
    "open_split",
]
