"""Steps of a training without a run directory, for the tests of its parts."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from dist_train.checkpoint import resume
from dist_train.checkpoint.serialization import Files
from dist_train.data.batches import Batch, Pass, Shard
from dist_train.data.sampler import cut_size
from dist_train.distributed.reduction import LOSS_SUM, GradientReduction, SingleProcess
from dist_train.distributed.sharded_tree import ShardedTreeReduction
from dist_train.distributed.world import World
from dist_train.execution.auto_settings import Convolutions, decide
from dist_train.models import build_model
from dist_train.settings.loader import load_config
from dist_train.settings.schema import Config
from dist_train.tasks import build_task
from dist_train.train import train_step
from dist_train.training.state import TrainState

SHAPE = (1, 12, 12)
CLASSES = 4


def configure(tmp_path: Path, *overrides: str) -> Config:
    path = tmp_path / "config.yaml"
    data = f"data: {{name: synthetic, shape: {list(SHAPE)}, num_classes: {CLASSES}}}\n"
    path.write_text(f"{data}model: {{name: mnist_cnn}}\n")
    return load_config(path, ["optim.lr=0.1", *overrides])


def make_batch(
    size: int,
    num_samples: int | None = None,
    count: int | None = None,
    step: int = 0,
    micro_batch: int | None = None,
) -> Batch:
    """A batch of one shard, of random images that depend on `size` alone.

    Args:
        num_samples: how many of its samples count; default: all.
        count: samples of the global batch; default: those of the shard.
        micro_batch: largest number of samples in a pass; default: no limit.
    """
    generator = torch.Generator().manual_seed(size)
    images = torch.randn(size, *SHAPE, generator=generator)
    labels = torch.randint(0, CLASSES, (size,), generator=generator)
    num_samples = size if num_samples is None else num_samples
    sizes = cut_size(size, micro_batch)
    passes = tuple(map(Pass, torch.split(images, sizes), torch.split(labels, sizes), sizes))
    shard = Shard(passes, num_samples, number=0, indices=torch.arange(num_samples))
    return Batch((shard,), count or size, step=step, epoch=0, samples=torch.arange(count or size))


class Stepper:
    """A state and a reduction in a world of one process."""

    def __init__(self, config: Config, network: nn.Module | None = None, files: Files | None = None) -> None:
        self.config, self.world = config, World()
        network = network or build_model(config.model, SHAPE, CLASSES, config.run.seed)
        settings = decide(config.train, config.distributed, self.world, Convolutions(10**6, 64, 64), None)
        self.state = TrainState(config, network, settings, self.world, files)
        kind = ShardedTreeReduction if config.shards else SingleProcess
        self.reduction: GradientReduction = kind(self.state.network, self.state.network, self.world)
        self.task = build_task(config, tuple(map(str, range(CLASSES))))
        self.grad_norm: Tensor | None = None

    @property
    def network(self) -> nn.Module:
        return self.state.network

    def step(self, batch: Batch) -> float:
        """Make a step; return the sum of its losses."""
        scalars, self.grad_norm = train_step(self.state, self.reduction, self.task, batch, self.config)
        return scalars[LOSS_SUM].item()

    def steps(self, numbers: Sequence[int]) -> None:
        """Make the steps of these numbers, on one batch of 8 samples."""
        for number in numbers:
            self.step(dataclasses.replace(make_batch(8), step=number))
            self.state.step += 1

    def gradients(self) -> list[Tensor]:
        return [gradient.clone() for gradient in self.reduction.gradients()]

    def files(self, steps_per_epoch: int = 1) -> Files:
        """What a checkpoint of this moment holds."""
        about = resume.describe_run(self.config, self.state.auto_settings, self.world)
        return self.state.checkpoint_files(steps_per_epoch, about)

    def tensors(self) -> dict[str, Tensor]:
        """A copy of the network's state_dict."""
        return {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
