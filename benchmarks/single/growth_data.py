"""Programs of `benchmarks.single.growth`: fill the cache with a data set, and time batches at the start of an epoch.

python -m benchmarks.single.growth_data make CONFIG     puts random images into the cache
python -m benchmarks.single.growth_data epoch CONFIG    prints seconds of batches and bytes of memory
"""

import json
import os
import statistics
import sys
import time
from dataclasses import replace
from functools import partial

import torch

from benchmarks.single.memory import samples_of
from dist_train.data import batches, open_dataset
from dist_train.data.batches import TrainBatches
from dist_train.data.cache import entries
from dist_train.data.datasets import synthetic
from dist_train.data.source import DecodedSplit
from dist_train.distributed.world import World
from dist_train.settings.loader import load_config
from dist_train.settings.schedule import steps_per_epoch
from dist_train.settings.schema import Config, SyntheticData


def make(config: Config) -> None:
    """Put random images into the cache in place of the synthetic ones, which take tens of bytes a pixel to generate."""
    if not isinstance(config.data, SyntheticData):
        raise TypeError(f"{config.data.name} is not synthetic")
    for split in ("train", "test"):
        source = synthetic.find(config.data, split, config.run.seed)
        count = config.data.num_train if split == "train" else config.data.num_test
        cheap = replace(source, read=partial(_images, count))
        entries.open_split(entries.locate_entry(config.data, split, cheap, digest=""), cheap, verify=False)


def _images(count: int) -> DecodedSplit:
    images = torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8)
    return DecodedSplit(images, torch.arange(count) % 10, tuple(map(str, range(10))))


def epoch(config: Config) -> dict[str, float]:
    """Seconds of the first batch of the second epoch, the median of those around it, and private memory there."""
    batches.AHEAD["cpu"] = 0  # one batch at a time: else the first of a group takes the time of all
    world = World()
    dataset = open_dataset(config.data, config.run.seed, world)
    steps = steps_per_epoch(len(dataset.train), config.data.global_batch)
    took = []
    with TrainBatches(dataset, config.data, config.run.seed, world, steps - 50, 2 * steps + 1) as stream:
        for _ in range(100):
            start = time.perf_counter()
            next(stream)
            took.append(time.perf_counter() - start)
        (memory,) = samples_of([os.getpid()])
    usual = statistics.median(took[1:50] + took[51:])
    return {"first": took[50], "usual": usual, "private": memory.private}


if __name__ == "__main__":
    deed, path = sys.argv[1:]
    if deed == "make":
        make(load_config(path, []))
    else:
        print(json.dumps(epoch(load_config(path, []))))
