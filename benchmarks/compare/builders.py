"""Build what every framework trains: the network of a recipe, its optimizer, and torchvision's data."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.compare.workloads import Workload
from dist_train.models import build_model
from dist_train.settings.loader import load_config
from dist_train.settings.schema import Augment, Config, ImageData, Normalize, StoredData

CONFIGS = Path(__file__).parents[2] / "configs"
SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
# Mean and std of the training split as lessons give them, for images scaled to 0..1.
STATISTICS = {"mnist": ((0.1307,), (0.3081,)), "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))}


def load_settings(workload: Workload) -> Config:
    """The resolved settings of a workload."""
    return load_config(CONFIGS / workload.recipe, list(workload.overrides))


def build_network(workload: Workload) -> nn.Module:
    """The network of a workload, initialised by its seed."""
    config = load_settings(workload)
    return build_model(config.model, SHAPES[workload.dataset], 10, config.run.seed)


def build_optimizer(workload: Workload, parameters: Any, **arguments: Any) -> torch.optim.Optimizer:
    """The SGD of a workload; `arguments`: more arguments of its constructor."""
    return torch.optim.SGD(parameters, **load_settings(workload).optim.arguments(), **arguments)


def random_batch(workload: Workload, size: int) -> tuple[Tensor, Tensor]:
    """Random images, float32 [size, C, H, W], and labels, int64 [size]."""
    return torch.randn(size, *SHAPES[workload.dataset]), torch.randint(0, 10, (size,))


def open_dataset(workload: Workload, train: bool = True) -> Any:
    """torchvision's data set in $DIST_TRAIN_DATA, with the transforms of torchvision's documentation."""
    from torchvision.datasets import MNIST

    from benchmarks.compare.unchecked_cifar10 import UncheckedCIFAR10

    kind = MNIST if workload.dataset == "mnist" else UncheckedCIFAR10
    return kind(os.environ["DIST_TRAIN_DATA"], train=train, transform=build_transform(workload, train))


def build_transform(workload: Workload, train: bool = True) -> Any:
    """A transform of PIL images to normalised float32 [C, H, W]; with random crop and flip if the recipe has them."""
    from torchvision import transforms

    data = load_settings(workload).data
    augment = data.augment if isinstance(data, ImageData) else None
    assert isinstance(augment, Augment)  # noqa: S101
    steps: list[Any] = []
    if train and augment.crop_padding:
        steps.append(transforms.RandomCrop(SHAPES[workload.dataset][1], padding=augment.crop_padding))
    if train and augment.flip:
        steps.append(transforms.RandomHorizontalFlip())
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(*_statistics(workload))])


def _statistics(workload: Workload) -> tuple[tuple[float, ...], tuple[float, ...]]:
    data = load_settings(workload).data
    if isinstance(data, StoredData) and isinstance(data.normalize, Normalize):
        return data.normalize.mean, data.normalize.std
    return STATISTICS[workload.dataset]
