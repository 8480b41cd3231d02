"""Random changes of training samples by the user's code, each a function of seed, epoch and sample."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dist_train import seeds
from dist_train.data.own.items import Collate, Items, describe_process
from dist_train.data.own.seeding import isolate_generators, seed_isolated_generators
from dist_train.data.own.sources import CollatedItems
from dist_train.data.samples import LabelledImages
from dist_train.errors import ConfigError, DataError
from dist_train.own_code.load import call, load, read_parameters, shown_as_own
from dist_train.own_code.reference import parse_reference
from dist_train.settings.schema import OwnAugment


class Augmenter:
    """Changes samples with a generator of their own."""

    def __init__(self, augment: OwnAugment, seed: int, rank: int) -> None:
        """Load the code; raises ConfigError and OwnCodeError."""
        self.name = augment.name
        self._change = _load_change(augment.name, augment.args)
        self._seed = seed
        self._rank = rank

    def change(self, samples: list[Any], numbers: list[int], epoch: int) -> list[Any]:
        """Change each of the samples of these numbers; raises OwnCodeError."""
        with isolate_generators():
            return [self._change_one(sample, number, epoch) for sample, number in zip(samples, numbers, strict=True)]

    def _change_one(self, sample: Any, number: int, epoch: int) -> Any:
        seed = seeds.derive(self._seed, "own augment", epoch, number)
        seed_isolated_generators(seed)
        with shown_as_own(f"data.augment {self.name}: sample {number}, by {describe_process(self._rank)},"):
            return self._change(sample, torch.Generator().manual_seed(seed))


def _load_change(name: str, arguments: dict[str, Any]) -> Callable[[Any, torch.Generator], Any]:
    """Return what changes a sample with a generator.

    A class is called with the arguments. Its object, or the function, is called with (sample, generator), a function
    with the arguments besides; if it takes the sample only, as a transform of torchvision, it draws from the global
    generators, which are seeded alike.

    Raises:
        ConfigError: it can't be called.
        OwnCodeError: it raises.
    """
    found = load(name, "data.augment")
    if isinstance(found, type):
        found = call(name, "data.augment", arguments)
    elif arguments:
        found = _give_arguments(found, name, arguments)
    if not callable(found):
        raise ConfigError(f"data.augment {name}: is of the type {type(found).__name__}, and no function or class")
    parameters = None if isinstance(found, nn.Module) else read_parameters(found)
    if parameters and (len(parameters.positional) > 1 or parameters.takes_any_position):
        return found  # type: ignore[no-any-return]
    if parameters and not parameters.positional:
        raise ConfigError(f"data.augment {name}: takes no sample; it is called with (sample, generator), or a sample")
    return lambda sample, _: found(sample)


def _give_arguments(function: Any, name: str, arguments: dict[str, Any]) -> Any:
    """Return a function with some of its arguments given; raises ConfigError if it is none, or does not take them."""
    parameters, reference = read_parameters(function), parse_reference(name)
    if not inspect.isroutine(function) or parameters is None or reference is None:
        kind = type(function).__name__
        raise ConfigError(f"data.augment.args: {name} is of the type {kind}; only a class or function takes arguments")
    free = [each for each in parameters.positional if each not in arguments]
    if fault := parameters.find_fault(reference, arguments, set(), min(2, len(free))):
        raise ConfigError(f"data.augment.args: {fault.text}")
    return partial(function, **arguments)


class AugmentedItems:
    """Items of the user's data set that are changed after they were read."""

    def __init__(self, items: Items, augmenter: Augmenter) -> None:
        self._items = items
        self._augmenter = augmenter

    def __len__(self) -> int:
        return len(self._items)

    def read(self, numbers: list[int], epoch: int) -> list[Any]:
        """Read items and change each of them; raises DataError and OwnCodeError."""
        return self._augmenter.change(self._items.read(numbers, epoch), numbers, epoch)


class _AugmentedImages:
    """Images with labels, one by one; the images are changed."""

    def __init__(self, source: LabelledImages, augmenter: Augmenter) -> None:
        self._source = source
        self._augmenter = augmenter

    def __len__(self) -> int:
        return len(self._source)

    def read(self, numbers: list[int], epoch: int) -> list[tuple[Tensor, int]]:
        """Read (image, label), uint8 [C, H, W] and a whole number; raises DataError and OwnCodeError."""
        ((stored, labels),) = self._source.take(torch.tensor(numbers), epoch, [len(numbers)])
        images = self._augmenter.change(list(stored.unbind(0)), numbers, epoch)
        for number, image in zip(numbers, images, strict=True):
            if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.shape != self._source.images.shape:
                found = f"{image.dtype} {list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
                raise DataError(
                    f"data.augment {self._augmenter.name}: sample {number} becomes {found}; it must stay torch.uint8 "
                    f"{list(self._source.images.shape)}, and is normalised afterwards"
                )
        return list(zip(images, labels.tolist(), strict=True))


def augment_images(source: LabelledImages, augment: OwnAugment, seed: int, rank: int) -> CollatedItems:
    """Return images that the user's code changes whenever they are read."""
    items = _AugmentedImages(source, Augmenter(augment, seed, rank))
    augmented = CollatedItems(items, Collate(None, "", seed, 0), "data.augment", source, rank)
    augmented.make_example(1)  # what is wrong with the code is seen before the run begins
    return augmented
