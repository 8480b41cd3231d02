"""What every framework trains alike: the network of a recipe, its optimizer, and torchvision's data for it."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.compare.works import Work
from dist_train.models import build_model
from dist_train.settings.loader import load_config
from dist_train.settings.schema import Config, Normalize, StoredData

CONFIGS = Path(__file__).parents[2] / "configs"
SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
# The statistics that lessons give for the training split, in the unit of images scaled to 0..1.
STATISTICS = {"mnist": ((0.1307,), (0.3081,)), "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))}


def settings(work: Work) -> Config:
    """The resolved settings of a work."""
    return load_config(CONFIGS / work.recipe, list(work.overrides))


def network(work: Work) -> nn.Module:
    """The work's network with the weights of its seed."""
    config = settings(work)
    return build_model(config.model, SHAPES[work.dataset], 10, config.run.seed)


def optimizer(work: Work, weights: Any, **arguments: Any) -> torch.optim.Optimizer:
    """The work's SGD over an iterable of weights; `arguments`: more for its constructor."""
    return torch.optim.SGD(weights, **settings(work).optim.arguments(), **arguments)


def fixed_batch(work: Work, size: int) -> tuple[Tensor, Tensor]:
    """Random images, float32 [size, C, H, W], and labels, int64 [size]."""
    return torch.randn(size, *SHAPES[work.dataset]), torch.randint(0, 10, (size,))


def dataset(work: Work, train: bool = True) -> Any:
    """torchvision's data set in $DIST_TRAIN_DATA, with the transforms that its documentation shows."""
    from torchvision.datasets import MNIST

    from benchmarks.compare.images import UncheckedCIFAR10

    kind = MNIST if work.dataset == "mnist" else UncheckedCIFAR10
    return kind(os.environ["DIST_TRAIN_DATA"], train=train, transform=transform(work, train))


def transform(work: Work, train: bool = True) -> Any:
    """From a PIL image to a normalised float32 tensor, [C, H, W]; random crop and flip where the recipe has them."""
    from torchvision import transforms

    augment = settings(work).data.augment
    steps: list[Any] = []
    if train and augment.crop_padding:
        steps.append(transforms.RandomCrop(SHAPES[work.dataset][1], padding=augment.crop_padding))
    if train and augment.flip:
        steps.append(transforms.RandomHorizontalFlip())
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(*_statistics(work))])


def _statistics(work: Work) -> tuple[tuple[float, ...], tuple[float, ...]]:
    data = settings(work).data
    if isinstance(data, StoredData) and isinstance(data.normalize, Normalize):
        return data.normalize.mean, data.normalize.std
    return STATISTICS[work.dataset]
