"""Data sets as users write them: items of many structures, with random transforms, and faulty ones."""

# ruff: noqa: ARG001, S311

import builtins
import multiprocessing
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

SIZE = 11


class Point(NamedTuple):
    """A named tuple, which stays one in a batch."""

    x: Tensor
    y: int


@dataclass
class Record:
    """A dataclass, which stays one in a batch."""

    x: Tensor
    weight: float


def make_tensor(dtype: torch.dtype) -> Callable[[int], tuple[Tensor, int]]:
    return lambda number: (torch.arange(6).view(2, 3).add(number).to(dtype), number % 3)


DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool)
KINDS: dict[str, Callable[[int], tuple[Any, Any]]] = {
    **{str(dtype).removeprefix("torch."): make_tensor(dtype) for dtype in (*DTYPES, *INTEGERS)},
    "scalar": lambda number: (torch.tensor(float(number)), torch.tensor(number)),
    "image": lambda number: (torch.full((3, 4, 5), float(number)), number % 3),
    "array": lambda number: (np.arange(4, dtype=np.float32) + number, np.int64(number % 3)),
    "reversed array": lambda number: ((np.arange(4) + number)[::-1], np.float32(number)),
    "number": lambda number: (float(number), 2.5 * number),
    "whole number": lambda number: (number, number % 2 == 0),
    "picture": lambda number: (Image.new("RGB", (5, 4), (number, 2 * number, 0)), number % 3),
    "grey picture": lambda number: (Image.new("L", (5, 4), number), number % 3),
    "pair": lambda number: ((torch.ones(2) * number, torch.ones(3, 1)), number % 3),
    "list": lambda number: ([torch.ones(2) * number, number], [number, float(number)]),
    "dict": lambda number: ({"x": torch.ones(2) * number, "n": {"inner": number}}, number % 3),
    "named tuple": lambda number: (Point(torch.ones(2) * number, number), number % 3),
    "dataclass": lambda number: (Record(torch.ones(2) * number, 0.5), {"a": number}),
    "uint16 label": lambda number: (torch.ones(2) * number, np.uint16(number % 3)),
    "uint32 label": lambda number: (torch.ones(2) * number, np.uint32(number % 3)),
    "no targets": lambda number: (torch.ones(2) * number, ()),
}
"""Items as a function of their number, by what is in them."""


class Items(Dataset[Any]):
    """Items of one kind; with `noise` the input is followed by random numbers of all three generators."""

    def __init__(self, split: str, kind: str, size: int = SIZE, noise: bool = False) -> None:
        self.offset, self.kind, self.size, self.noise = 100 * (split == "test"), kind, size, noise

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, number: int) -> tuple[Any, Any]:
        item, target = KINDS[self.kind](number + self.offset)
        if self.noise:
            return (item, random.uniform(0, 1), np.random.rand(), torch.rand(2)), target
        return item, target


class Labelled(Items):
    """Items of three classes, with the attributes of torchvision's data sets."""

    classes = ("cat", "dog", "emu")

    def __init__(self, split: str, kind: str = "float32", size: int = SIZE) -> None:
        super().__init__(split, kind, size)
        self.targets = [KINDS[kind](number + self.offset)[1] for number in range(size)]
        self.weights = [1.0 + number for number in range(size)]


class Lengths(Items):
    """Sequences of different lengths, which need a collate of their own."""

    def __init__(self, split: str, size: int = SIZE) -> None:
        super().__init__(split, "", size)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        return torch.full((1 + number % 4,), float(number)), number % 3


def pad(items: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Pad sequences to the longest of the batch."""
    inputs, targets = zip(*items, strict=True)
    return torch.nn.utils.rnn.pad_sequence(list(inputs), batch_first=True), torch.tensor(targets)


def shake(items: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Pad, and add noise."""
    inputs, targets = pad(items)
    return inputs + torch.rand(1), targets


def tensors(split: str, size: int = SIZE, dtype: str = "float32", part: bool = False) -> Dataset[Any]:
    """A TensorDataset, or a part of one."""
    numbers = torch.arange(6 * size).view(size, 2, 3) + 100 * (split == "test")
    inputs = numbers.to(getattr(torch, dtype))
    whole = TensorDataset(inputs, torch.arange(size) % 3)
    return torch.utils.data.Subset(whole, range(1, size)) if part else whole


def splits(size: int = SIZE, names: tuple[str, ...] = ("train", "validation", "test")) -> dict[str, Dataset[Any]]:
    """All splits by name."""
    return {name: Items(name, "float32", size) for name in names}


class Features(Items):
    """Items as those of Hugging Face are: dicts with a label, and a fingerprint."""

    def __init__(self, split: str, two: bool = False, size: int = SIZE) -> None:
        super().__init__(split, "float32", size)
        self.two = two
        self._fingerprint = f"fingerprint of {split}"

    def __getitem__(self, number: int) -> Any:
        item, target = super().__getitem__(number)
        return {"image": item, **({"mask": item + 1} if self.two else {}), "label": target}


class Unpicklable(Items):
    """Holds what can't be pickled."""

    def __init__(self, split: str, kind: str = "float32") -> None:
        super().__init__(split, kind)
        self.function = lambda number: number


class OwnGenerator(Items):
    """Draws from a generator that nobody seeds for it."""

    def __init__(self, split: str) -> None:
        super().__init__(split, "float32")
        self.generator = np.random.default_rng()

    def __getitem__(self, number: int) -> tuple[Any, Any]:
        item, target = super().__getitem__(number)
        return item + self.generator.random(), target


# Faulty ones


class Stream(IterableDataset[Any]):
    """Yields items in its own order."""

    def __init__(self, split: str) -> None:
        self.split = split

    def __iter__(self) -> Any:
        return iter([(torch.ones(1), 0)])


class WithoutLength:
    """Has no `__len__`."""

    def __init__(self, split: str) -> None:
        self.split = split

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        return torch.ones(1), 0


class WithoutItems:
    """Has no `__getitem__`."""

    def __init__(self, split: str) -> None:
        self.split = split

    def __len__(self) -> int:
        return 3


class Unfinished(Dataset[Any]):
    """Has inherited a __getitem__ that only raises."""

    def __init__(self, split: str) -> None:
        pass

    def __len__(self) -> int:
        return 3


def _hold_itself() -> list[Any]:
    endless: list[Any] = [torch.ones(2)]
    endless.append(endless)
    return endless


UNUSABLE: dict[str, Callable[[], Any]] = {
    "meta": lambda: torch.ones(2, device="meta"),
    "sparse": lambda: torch.ones(2).to_sparse(),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2)]),
    "jagged": lambda: torch.nested.nested_tensor([torch.ones(2)], layout=torch.jagged),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8),
    "endless": _hold_itself,
}
"""What looks like an input and has no values that can be sent, or no end."""


class Unusable(Items):
    """Each input is one of `UNUSABLE`."""

    def __init__(self, split: str, kind: str, deep: bool = False) -> None:
        super().__init__(split, kind)
        self.deep = deep

    def __getitem__(self, number: int) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what torch has not finished, or will drop
            value = UNUSABLE[self.kind]()
        return ({"x": [value]} if self.deep else value), 0


def take_first(items: list[Any]) -> Any:
    """Makes a batch of one item, as it is."""
    return items[0]


class OtherSizes(Items):
    """Sequences or pictures that have another size in each split."""

    def __init__(self, split: str, dimensions: int, size: int = SIZE) -> None:
        super().__init__(split, "", size)
        self.sides = (3,) + (4 if split == "train" else 6,) * (dimensions - 1)

    def __getitem__(self, number: int) -> Any:
        return torch.full(self.sides, float(number)), number % 3


class OtherClasses(Labelled):
    """The test split has other classes than train, or the same ones in another order."""

    def __init__(self, split: str, test_classes: list[str]) -> None:
        super().__init__(split)
        if split == "test":
            self.classes = tuple(test_classes)  # type: ignore[assignment]


class Namesakes(Labelled):
    """Two classes have one name, as in ImageNet."""

    classes = ("crane", "dog", "crane")


class Texts(Items):
    """Inputs and targets without a tensor."""

    def __init__(self, split: str) -> None:
        super().__init__(split, "")

    def __getitem__(self, number: int) -> Any:
        return "a" * number, "b"


class Uncountable(Labelled):
    """An attribute that raises."""

    def __init__(self, split: str) -> None:
        Items.__init__(self, split, "float32")

    @property
    def weights(self) -> Any:  # type: ignore[override]
        raise ZeroDivisionError("in weights")

    @property
    def targets(self) -> Any:  # type: ignore[override]
        raise ZeroDivisionError("in targets")


class WrongLength(Items):
    """Has a length that is none."""

    def __init__(self, split: str, length: Any) -> None:
        super().__init__(split, "float32")
        self.length = length

    def __len__(self) -> int:
        return self.length  # type: ignore[no-any-return]


class Shrinks(Items):
    """Loses samples after it was opened."""

    def __init__(self, split: str) -> None:
        super().__init__(split, "float32")

    def __getitem__(self, number: int) -> tuple[Any, Any]:
        if number == self.size - 2:
            self.size -= 1
        return super().__getitem__(number)


CHANGED: dict[str, Any] = {
    "shape": (torch.ones(3, 2), 0),
    "dtype": (torch.ones(2, 3).double(), 0),
    "kind": (np.ones((2, 3), np.float32), 0),
    "target": (torch.ones(2, 3), 0.5),
    "parts": ((torch.ones(2, 3),), 0),
    "three": (torch.ones(2, 3), 0, 1),
    "nothing": None,
}


class Changes(Items):
    """One item is of another structure than the others."""

    def __init__(self, split: str, change: str, at: int = 5) -> None:
        super().__init__(split, "float32")
        self.change, self.at = change, at

    def __getitem__(self, number: int) -> Any:
        return CHANGED[self.change] if number == self.at else super().__getitem__(number)


class Mislabelled(Labelled):
    """One label is of no class."""

    def __init__(self, split: str, label: int, at: int = 5) -> None:
        super().__init__(split)
        self.label, self.at = label, at

    def __getitem__(self, number: int) -> Any:
        item, target = super().__getitem__(number)
        return item, self.label if number == self.at else target


class Fails(Items):
    """One item can't be read."""

    def __init__(self, split: str, at: int = 5, error: str = "KeyError") -> None:
        super().__init__(split, "float32")
        self.at, self.error = at, getattr(builtins, error)("missing")

    def __getitem__(self, number: int) -> Any:
        if number == self.at:
            raise self.error
        return super().__getitem__(number)


class Pooled(Items):
    """Reads with a pool of processes."""

    fingerprint = "pooled"

    def __init__(self, split: str) -> None:
        super().__init__(split, "float32")

    def __getitem__(self, number: int) -> Any:
        with multiprocessing.get_context("fork").Pool(1) as pool:
            return torch.full((2,), *pool.map(float, [number])), number % 3


def without_split(size: int = SIZE) -> Items:
    """Gives the same items for all splits."""
    return Items("train", "float32", size)


def stack(items: list[Any]) -> Any:
    """Makes a batch as the default does."""
    return torch.utils.data.default_collate(items)


def count(items: list[Any]) -> int:
    """Makes no batch."""
    return len(items)


def divide(items: list[Any]) -> float:
    """Fails."""
    return len(items) / 0


# Orders


def backward(seed: int, epoch: int, length: int) -> list[int]:
    """Back to front, and one place further in each epoch."""
    return [(number - epoch) % length for number in range(length - 1, -1, -1)]


def draw(seed: int, epoch: int, length: int) -> Tensor:
    """Drawn from the global generator."""
    return torch.randperm(length)


def too_few(seed: int, epoch: int, length: int) -> list[int]:
    """One sample is missing."""
    return list(range(length - 1))


def too_large(seed: int, epoch: int, length: int) -> list[int]:
    """One index is of no sample."""
    return [*range(length - 1), length]


def fractions(seed: int, epoch: int, length: int) -> Tensor:
    """No whole numbers."""
    return torch.rand(length)


def texts(seed: int, epoch: int, length: int) -> list[str]:
    """No numbers."""
    return ["0"] * length


def divide_order(seed: int, epoch: int, length: int) -> float:
    """Fails."""
    return length / 0


class Weights(Labelled):
    """Has the weights that it is given."""

    def __init__(self, split: str, weights: list[float]) -> None:
        super().__init__(split)
        self.weights = weights


# Augmentation


def jitter(sample: tuple[Tensor, int], generator: torch.Generator, scale: float = 1.0) -> tuple[Tensor, int]:
    """Add one random number to the input."""
    inputs, target = sample
    return inputs + scale * torch.rand((), generator=generator), target


def forget(sample: tuple[Tensor, int], generator: torch.Generator) -> None:
    """Return nothing."""


def take_input(sample: tuple[Tensor, int]) -> Tensor:
    """Lose the target."""
    return sample[0]


def take_nothing() -> None:
    """Take no sample."""


def roll(image: Tensor, generator: torch.Generator, most: int = 4) -> Tensor:
    """Shift an image by some pixels."""
    return image.roll(int(torch.randint(1, most + 1, (), generator=generator)), 2)


class Jitter:
    """As a class: draws from the global generators too."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def __call__(self, sample: tuple[Tensor, int], generator: torch.Generator) -> tuple[Tensor, int]:
        inputs, target = jitter(sample, generator, self.scale)
        return inputs + random.uniform(0, 1) + np.random.rand() + torch.rand(()), target


def to_float(image: Tensor, generator: torch.Generator) -> Tensor:
    """Makes of an image what can't be normalised."""
    return image / 255


def to_size(image: Tensor, generator: torch.Generator) -> int:
    """Makes of an image what is none."""
    return len(image)


def stumble(image: Tensor, generator: torch.Generator) -> Tensor:
    """Fails."""
    raise LookupError("no such sample")


flips = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(0.3), v2.RandomCrop(8, padding=2)])


def folder(split: str, root: str, tensors: bool = False) -> Dataset[Any]:
    """torchvision's ImageFolder, as it comes or with random transforms."""
    steps = [v2.ToImage(), v2.RandomHorizontalFlip(), v2.ColorJitter(0.5), v2.ToDtype(torch.float32, scale=True)]
    return ImageFolder(f"{root}/{split}", transform=v2.Compose(steps) if tensors else None)  # type: ignore[no-any-return]
