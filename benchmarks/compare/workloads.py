"""What is trained in a benchmark: four lessons that everybody knows, each by a recipe of `configs/`. No torch here."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Workload:
    """One network, batch and data; only the framework differs between those that train it."""

    name: str
    title: str
    recipe: str
    """File of `configs/`."""
    dataset: Literal["mnist", "cifar10"]
    batch: int
    """Samples in one optimizer step, over all ranks."""
    every: int
    """Steps between two readings of the clock, at which the loss is printed too."""
    warm_up: int
    """Steps before the first reading that counts, a multiple of `every`."""
    steps: int
    """Steps between the first and the last reading that count, a multiple of `every`; fewer than an epoch."""
    quick_steps: int
    """The same where it has to be quick."""
    overrides: tuple[str, ...] = ()
    """Settings in which the workload differs from its recipe."""
    saves: bool = True
    """Whether ours saves a checkpoint between the two readings; among few long steps it would weigh a hundred times
    what it does in an epoch."""

    def window(self, quick: bool) -> tuple[int, int]:
        """The steps after which the first and the last reading that count are taken."""
        return self.warm_up, self.warm_up + (self.quick_steps if quick else self.steps)


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("mnist", "MNIST example net, batch 64", "mnist_example.yaml", "mnist", 64, 50, 50, 400, 200),
        Workload(
            "tutorial",
            "CIFAR tutorial net, batch 128",
            "cifar10_tutorial.yaml",
            "cifar10",
            batch=128,
            every=25,
            warm_up=50,
            steps=200,
            quick_steps=100,
            overrides=("data.global_batch=128",),
        ),
        Workload("small", "CIFAR tutorial net, batch 4", "cifar10_tutorial.yaml", "cifar10", 4, 250, 500, 4000, 1500),
        Workload(
            "resnet",
            "ResNet-18, batch 128, crop and flip",
            "cifar10_resnet18.yaml",
            "cifar10",
            128,
            1,
            2,
            4,
            2,
            saves=False,
        ),
    )
}
