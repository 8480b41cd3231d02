"""Iterate over a split of a run, with the network's output for each sample.

    with open_predictions("runs/digits", split="test", checkpoint="best") as predictions:
        for batch in predictions.batches(limit=20):
            batch.indices, batch.inputs, batch.targets, batch.output

The output is that of an evaluation, in its batches and precision.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from dist_train.data import eval_batches
from dist_train.data.batches import eval_batch_size
from dist_train.data.samples import SplitName
from dist_train.distributed.world import World, open_world
from dist_train.evaluate import OpenEvaluation, compute_output, load_config_of, open_evaluation
from dist_train.execution.auto_settings import use_onednn
from dist_train.nest import Nest
from dist_train.run_dir import RunDir


@dataclass(frozen=True)
class PredictedBatch:
    """Consecutive samples of a split, with the network's output."""

    indices: Tensor
    """int64 [B], on the CPU: numbers of the samples in the split of the files, as in the ledger; those of `validation`
    are numbers in the training split."""
    inputs: Nest
    """What the network is called with, on its device. For a data set of images: [B, C, H, W], normalised."""
    targets: Nest
    """What the loss compares the output with. For a data set of images: labels, int64 [B]."""
    output: Nest
    """The network's whole output, in at least fp32; `tasks.output.select` returns the field that the loss gets."""


@dataclass(frozen=True)
class Predictions:
    """An open split of a run, with the network of a checkpoint."""

    opened: OpenEvaluation
    """Checkpoint, settings, network, task, data format and samples."""
    world: World
    """A single rank, on a GPU if there is one."""

    def batches(self, limit: int | None = None) -> Iterator[PredictedBatch]:
        """Yield the samples in order, each once.

        Args:
            limit: only the first samples, so many.

        Raises (while iterating):
            DataError: a sample can't be read.
        """
        opened, config = self.opened, self.opened.config.data
        samples = opened.samples
        if limit is not None and limit < len(samples):
            samples = replace(samples, chosen=samples.indices[:limit])
        size = opened.config.eval.batch_size or eval_batch_size(opened.dataset, config, self.world.device)
        opened.network.eval()
        use_onednn(True)  # as in an evaluation
        memory_format = opened.auto_settings.memory_format
        batches = eval_batches(samples, opened.dataset, config, self.world, memory_format, batch_size=size)
        for batch, indices in zip(batches, torch.split(samples.indices, size), strict=True):
            output = compute_output(opened.network, batch.inputs, opened.auto_settings, self.world)
            yield PredictedBatch(indices, batch.inputs, batch.targets, output)


@contextmanager
def open_predictions(
    run_dir: str | Path,
    split: SplitName | None = None,
    checkpoint: str = "latest",
    overrides: Sequence[str] = (),
    *,
    trust_code: bool = False,
) -> Iterator[Predictions]:
    """A block in which a split of a run can be iterated over; it changes torch's settings in this process.

    Args:
        split: None: test, or validation if the run has no test split.
        checkpoint: `latest`, `best`, the number of a step, or the directory of a checkpoint.
        overrides: `key=value` of other settings, such as `data.root=...`.
        trust_code: also run code that the run has kept if it belongs to another user.

    Raises:
        UserError: this is no run, or its checkpoint or data can't be read.
    """
    run = RunDir(run_dir)
    config = load_config_of(run, overrides)
    world = open_world(config.distributed, {})
    with open_evaluation(run, config, split, checkpoint, world, trust_code) as opened:
        yield Predictions(opened, world)
