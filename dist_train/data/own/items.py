"""The items of the user's data set, read one by one, each with its own seeds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from dist_train import seeds
from dist_train.data.own.seeding import SeededReader
from dist_train.data.own.stacking import StackingError, find_tensor_fault, stack_items
from dist_train.errors import DataError
from dist_train.nest import Nest, list_tensors
from dist_train.own_code.load import shown_as_own

TARGETS = ("label", "labels")
"""Keys of the target in an item that is a dict, as those of Hugging Face are."""


class Items(Protocol):
    """The samples of one split, each by itself."""

    def __len__(self) -> int:
        """Number of samples."""

    def read(self, numbers: list[int], epoch: int) -> list[Any]:
        """Read the samples of these numbers, each (input, target) if there is no own collate.

        Raises:
            DataError: a sample is not of this form.
            OwnCodeError: the user's code fails.
        """


class OwnItems:
    """The items of a map-style data set; an error names the item, the rank and the worker."""

    def __init__(self, dataset: Any, name: str, split: str, seed: int, rank: int, is_collated: bool) -> None:
        """
        Args:
            name: what the user calls the data set.
            is_collated: an own collate makes the batches, so that items may be anything.
        """
        self.dataset = dataset
        self.about = f"data.name {name}, split {split}"
        self._rank = rank
        self._length = len(dataset)
        self._is_collated = is_collated
        self._reader = SeededReader(partial(seeds.derive, seed, f"item of {split}"))

    def __len__(self) -> int:
        return self._length

    def read(self, numbers: list[int], epoch: int) -> list[Any]:
        """Read items; `random`, `numpy.random` and torch are seeded by (seed, split, epoch, number) around each."""
        if len(self.dataset) != self._length:
            raise DataError(
                f"{self.about}: its length was {self._length:,} and is {len(self.dataset):,} now; a data set can't "
                "change while it is trained on"
            )
        items = self._reader.read(self._read_each, numbers, epoch)
        if self._is_collated:
            return items
        return _list_pairs(items, numbers, self.about)

    def _read_each(self, numbers: Iterable[int]) -> list[Any]:
        items, number = [], None
        try:
            for number in numbers:
                items.append(self.dataset[number])
        except BaseException:
            with shown_as_own(f"{self.about}: item {number}, read by {describe_process(self._rank)},"):
                raise
        return items


def describe_process(rank: int) -> str:
    """Name this process: its rank, and the worker that it is."""
    worker = get_worker_info()
    return f"rank {rank}" if worker is None else f"rank {rank}, worker {worker.id}"


def split_item(item: Any, what: str) -> tuple[Any, Any]:
    """Return (input, target) of an item: of a pair, or of a dict with a `label`; raises DataError."""
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    if isinstance(item, Mapping):
        for key in TARGETS:
            if key in item and len(item) > 1:
                rest = {name: value for name, value in item.items() if name != key}
                return (next(iter(rest.values())) if len(rest) == 1 else rest), item[key]
    kind = f"{type(item).__name__} of {len(item)}" if isinstance(item, tuple | list) else type(item).__name__
    raise DataError(
        f"{what} is a {kind}, and must be a pair (input, target). Give data.collate, a function of your own that makes "
        "(inputs, targets) of a list of items, for others"
    )


def _list_pairs(items: Sequence[Any], numbers: list[int], about: str) -> list[tuple[Any, Any]]:
    return [
        item if type(item) is tuple and len(item) == 2 else split_item(item, f"{about}: item {number}")
        for item, number in zip(items, numbers, strict=True)
    ]


class Collate:
    """Makes a batch of items, by the user's function or by stacking them."""

    def __init__(
        self,
        function: Callable[[list[Any]], Any] | None,
        name: str,
        seed: int,
        num_classes: int,
        ignored_label: int | None = None,
    ) -> None:
        """
        Args:
            name: the reference of the function.
            num_classes: of the data set, to check labels; 0: not known.
            ignored_label: a label that is no class and may be there.
        """
        self.is_own = function is not None
        """Whether it is the user's, and may make another shape of each batch."""
        self._function = function
        self._name = name
        self._num_classes, self._ignored_label = num_classes, ignored_label
        self._reader = SeededReader(partial(seeds.derive, seed, "collate"))

    def __call__(self, items: Sequence[Any], numbers: list[int], epoch: int, about: str, rank: int = 0) -> Nest:
        """Return (inputs, targets).

        Args:
            numbers: of the items.
            about: what the data set is called in a message.

        Raises:
            DataError: items of different structure, or a label of no class.
            OwnCodeError: the user's function fails.
        """
        try:
            if self._function is None:
                batch = self._stack(items, numbers, about)
            else:
                (batch,) = self._reader.read(
                    lambda keys: [self._call(items, numbers, about, rank) for _ in keys], [numbers[0]], epoch
                )
            tensors = list_tensors(batch)
        except RecursionError as error:
            raise DataError(f"{about}: item {numbers[0]} is nested too deeply, or holds itself") from error
        for tensor in tensors:
            if fault := find_tensor_fault(tensor):
                raise DataError(
                    f"{about}: item {numbers[0]}: a tensor is {fault}; give dense tensors, with their values"
                )
        self._check_labels(batch[1], numbers, about)
        return batch

    def _stack(self, items: Sequence[Any], numbers: list[int], about: str) -> Nest:
        inputs, targets = zip(*_list_pairs(items, numbers, about), strict=True)
        try:
            return stack_items(inputs, "the input"), stack_items(targets, "the target")
        except StackingError as error:
            raise DataError(
                f"{about}: item {numbers[error.position]}: {error}. Return items of one structure, or give "
                "data.collate, a function of your own that makes a batch of a list of items, as by padding"
            ) from error

    def _call(self, items: Sequence[Any], numbers: list[int], about: str, rank: int) -> tuple[Nest, Nest]:
        assert self._function is not None  # noqa: S101
        shown = f"items {', '.join(map(str, numbers[:4]))}{', ...' if len(numbers) > 4 else ''}"
        with shown_as_own(f"data.collate {self._name}: {about}: {shown}, by {describe_process(rank)},"):
            batch = self._function(list(items))
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise DataError(
                f"data.collate {self._name}: must return a pair (inputs, targets), not a {type(batch).__name__}"
            )
        if not list_tensors(batch[0]):
            raise DataError(f"data.collate {self._name}: its inputs hold no tensor")
        return batch[0], batch[1]

    def _check_labels(self, targets: Nest, numbers: list[int], about: str) -> None:
        if not self._num_classes or not isinstance(targets, Tensor) or targets.dim() != 1:
            return
        if targets.is_floating_point() or targets.is_complex() or not len(targets):
            return
        targets = targets.to(torch.int64)  # torch has no bounds of some integers
        low, high = (int(bound) for bound in torch.aminmax(targets))
        if low >= 0 and high < self._num_classes:
            return
        wrong = (targets < 0) | (targets >= self._num_classes)
        if self._ignored_label is not None:
            wrong &= targets != self._ignored_label
        for position in wrong.nonzero()[:1, 0].tolist():
            label = int(targets[position])
            hint = f"; loss.args.ignore_index={label} leaves out such labels" if label < 0 else ""
            raise DataError(
                f"{about}: item {numbers[position]} has the label {label}, but there are "
                f"{self._num_classes} classes, 0 to {self._num_classes - 1}{hint}"
            )
