"""Augmentation by the user's code: the same bits by every loader, at any number of workers and ranks."""

from typing import Any

import pytest
import torch

from dist_train.data import TrainBatches, eval_batches
from dist_train.distributed.world import World
from dist_train.errors import ConfigError, DataError, OwnCodeError
from tests.unit.dist_train.data.files import Settings, held_out, trained
from tests.unit.dist_train.data.files import opened as opened_images
from tests.unit.dist_train.data.own.opened import SETS, configure, opened, train
from tests.unit.dist_train.data.own.test_sources import assert_same, join, leaves

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

IMAGES: dict[str, Any] = {"num_train": 30, "num_test": 9, "shape": (3, 8, 8), "num_classes": 3, "global_batch": 8}


def code(name: str, **args: Any) -> dict[str, Any]:
    """The setting for code in `sets.py`."""
    return {"name": f"{SETS}:{name}", "args": args}


OF_IMAGES = [
    code("roll"), code("roll", most=2), code("flips"),
    {"name": "torchvision.transforms.v2:RandomHorizontalFlip", "args": {"p": 0.7}},
]  # fmt: skip


@pytest.mark.parametrize("augment", OF_IMAGES)
def test_loaders_and_ranks_augment_images_alike(settings: Settings, augment: dict[str, Any]) -> None:
    def read(world: World, loader: str, workers: int) -> list[Any]:
        config = settings("synthetic", augment=augment, loader=loader, workers=workers, **IMAGES)
        dataset = opened_images(config, world)
        assert dataset.loader == ("workers" if loader == "auto" else loader)
        with TrainBatches(dataset, config, 3, world, 0, 8) as batches:
            return list(batches)

    alone = read(World(), "in_memory", 0)
    plain = settings("synthetic", **IMAGES)
    assert not torch.equal(leaves(alone)[0], trained(opened_images(plain), plain, World(), 0, 1)[0].images)
    for loader, workers in (("auto", 2), ("workers", 0), ("workers", 1)):
        assert_same(leaves(read(World(), loader, workers)), leaves(alone))
    for size in (2, 3):
        assert_same(join([read(World(rank=rank, size=size), "auto", 1) for rank in range(size)]), leaves(alone))


def test_only_training_samples_are_augmented(settings: Settings) -> None:
    both = [
        settings("synthetic", validation=0.2, **IMAGES),
        settings("synthetic", validation=0.2, augment=OF_IMAGES[0], **IMAGES),
    ]
    datasets = [opened_images(config) for config in both]
    for name in ("test", "validation"):
        found = [
            [batch.inputs for batch in eval_batches(getattr(dataset, name), dataset, config, World())]
            for dataset, config in zip(datasets, both, strict=True)
        ]
        assert_same(*found)
    assert len(held_out(datasets[1])) == 9
    own = configure("Labelled", augment=code("jitter"), validation=0.3)
    dataset, plain = opened(own), opened(configure("Labelled", validation=0.3))
    assert dataset.validation is not None
    assert plain.validation is not None
    numbers = torch.arange(3)
    assert_same(leaves_of(dataset.validation.read(numbers, 1)), leaves_of(plain.validation.read(numbers, 1)))
    assert dataset.identity == plain.identity


def leaves_of(loaded: list[Any]) -> list[torch.Tensor]:
    return [tensor for nest in loaded for tensor in nest]


@pytest.mark.parametrize(
    ("name", "augment", "args"),
    [
        ("Labelled", "jitter", {}),
        ("Labelled", "Jitter", {"scale": 2.0}),
        ("tensors", "jitter", {"scale": 2.0}),
        ("tensors", "Jitter", {}),
    ],
)
def test_own_data_are_augmented_alike(name: str, augment: str, args: dict[str, float]) -> None:
    config = configure(name, augment=code(augment, **args))
    alone = train(config)
    for workers in (1, 2):
        assert_same(leaves(train(configure(name, augment=code(augment, **args), workers=workers))), leaves(alone))
    assert_same(join([train(config, World(rank=rank, size=3)) for rank in range(3)]), leaves(alone))
    noise = [
        (tensor - plain).flatten(1)[:, 0]
        for tensor, plain in zip(leaves(alone)[::2], leaves(train(configure(name)))[::2], strict=True)
    ]
    assert len(set(torch.cat(noise).tolist())) == sum(map(len, noise))  # another one for each sample and epoch
    assert bool((torch.cat(noise) > 1).any()) == (augment == "Jitter" or bool(args))


@pytest.mark.parametrize(
    ("augment", "complaint"),
    [
        (
            "to_float",
            r"sets\.py:to_float: sample \d+ becomes torch\.float32 \[3, 8, 8\]; it must stay torch\.uint8 \[3, 8, 8\]",
        ),
        ("to_size", r"sample \d+ becomes int; it must stay torch\.uint8"),
        ("SIZE", "is of the type int, and no function or class"),
        ({"name": "flips", "p": 0.5}, "flips is of the type Compose; only a class or function takes arguments"),
        ({"name": "roll", "mots": 2}, r"roll in .* has no argument mots; did you mean most\?"),
        ({"name": "Jitter", "size": 2}, "Jitter in .* has no argument size; it takes scale"),
    ],
)
def test_what_is_no_image_any_more_is_refused(settings: Settings, augment: Any, complaint: str) -> None:
    augment = code(augment) if isinstance(augment, str) else code(**augment)
    config = settings("synthetic", augment=augment, workers=0, **IMAGES)
    with pytest.raises((ConfigError, DataError), match=complaint):
        trained(opened_images(config), config, World(), 0, 1)


@pytest.mark.parametrize(
    ("augment", "complaint"),
    [
        ("forget", "forget: item 0 is a NoneType, and must be a pair"),
        ("take_input", "take_input: item 0 is a Tensor, and must be a pair"),
        ("take_nothing", "take_nothing: takes no sample"),
    ],
)
def test_what_is_no_sample_any_more_is_refused_before_the_run_begins(augment: str, complaint: str) -> None:
    with pytest.raises((ConfigError, DataError), match=complaint):
        opened(configure("Labelled", augment=code(augment)))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_exception_is_shown_as_the_users(settings: Settings, workers: int) -> None:
    config = settings("synthetic", augment=code("stumble"), workers=workers, loader="workers", **IMAGES)
    with pytest.raises(OwnCodeError, match=r"(?s)data\.augment .*: sample \d+, by rank 0.*LookupError: no such sample"):
        trained(opened_images(config), config, World(), 0, 1)
