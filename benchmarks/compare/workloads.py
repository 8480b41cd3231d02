"""The workloads of the bench: four well-known lessons, each by a recipe of `configs/`. Does not import torch."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Workload:
    """One network, batch and data set, the same for every framework."""

    name: str
    title: str
    recipe: str
    """File of `configs/`."""
    dataset: Literal["mnist", "cifar10"]
    batch: int
    """Samples in one optimizer step, over all ranks."""
    log_every_steps: int
    """Steps between two log lines, each with the loss and the time."""
    warm_up: int
    """Steps before the measured window, a multiple of `log_every_steps`."""
    steps: int
    """Steps of the measured window, a multiple of `log_every_steps`; together less than an epoch."""
    quick_steps: int
    """The same in a quick session."""
    overrides: tuple[str, ...] = ()
    """Settings in which the workload differs from its recipe."""
    saves: bool = True
    """Whether ours saves a checkpoint in the window. Not among a few long steps: it would weigh a hundred times what it
    weighs in an epoch."""

    def window(self, quick: bool) -> tuple[int, int]:
        """The steps at whose end the measured window begins and ends."""
        return self.warm_up, self.warm_up + (self.quick_steps if quick else self.steps)


MNIST = Workload(
    "mnist", "MNIST example net, batch 64", "mnist_example.yaml", "mnist",
    batch=64, log_every_steps=50, warm_up=50, steps=400, quick_steps=200,
)  # fmt: skip
TUTORIAL = Workload(
    "tutorial", "CIFAR tutorial net, batch 128", "cifar10_tutorial.yaml", "cifar10",
    batch=128, log_every_steps=25, warm_up=50, steps=200, quick_steps=100, overrides=("data.global_batch=128",),
)  # fmt: skip
SMALL = Workload(
    "small", "CIFAR tutorial net, batch 4", "cifar10_tutorial.yaml", "cifar10",
    batch=4, log_every_steps=250, warm_up=500, steps=4000, quick_steps=1500,
)  # fmt: skip
RESNET = Workload(
    "resnet", "ResNet-18, batch 128, crop and flip", "cifar10_resnet18.yaml", "cifar10",
    batch=128, log_every_steps=1, warm_up=2, steps=4, quick_steps=2, saves=False,
)  # fmt: skip
WORKLOADS = {workload.name: workload for workload in (MNIST, TUTORIAL, SMALL, RESNET)}
