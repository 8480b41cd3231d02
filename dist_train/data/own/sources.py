"""The samples of a split as batches: collated from items, or held in memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dist_train.data.own.attributes import read_labels, read_weights
from dist_train.data.own.items import Collate, Items
from dist_train.data.own.stacking import count_bytes, take_rows
from dist_train.data.samples import to_device
from dist_train.nest import Nest, list_tensors, map_tensors, split_nest


class _OwnSource:
    """Samples of the user's object, with labels and weights from its attributes."""

    dataset: Any

    @property
    def labels(self) -> Tensor | None:
        """int64 [N], from the data set's attributes."""
        return read_labels(self.dataset)

    @property
    def weights(self) -> Tensor | None:
        """float64 [N], from the data set's attribute; raises DataError."""
        return read_weights(self.dataset)


@dataclass(frozen=True)
class CollatedItems(_OwnSource):
    """Samples that are read one by one and then collated."""

    items: Items
    collate: Collate
    about: str
    """What the data set is called in a message."""
    dataset: Any
    """The user's object."""
    rank: int

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    @cached_property
    def sample_bytes(self) -> int:
        """Bytes of the first sample."""
        return count_bytes(self.make_example(1))

    @cached_property
    def _first(self) -> Any:
        """The first sample, read once: an example, whenever one is needed."""
        return self.items.read([0], 0)[0]

    def __len__(self) -> int:
        return len(self.items)

    def make_example(self, count: int) -> Nest:
        """Return (inputs, targets) of the first sample, `count` times."""
        return self.collate([self._first] * count, [0] * count, 0, self.about, self.rank)

    def take(self, numbers: Tensor, epoch: int, sizes: Sequence[int]) -> list[Nest]:
        """(inputs, targets) of each pass, or of all if they are stacked; raises DataError and OwnCodeError."""
        listed = numbers.tolist()
        items = self.items.read(listed, epoch)
        if not self.collate.is_own:  # one large batch goes faster between processes than many
            return [self.collate(items, listed, epoch, self.about, self.rank)]
        found, start = [], 0
        for size in sizes:
            part = slice(start, start + size)
            found.append(self.collate(items[part], listed[part], epoch, self.about, self.rank))
            start += size
        return found


@dataclass(frozen=True)
class ResidentTensors(_OwnSource):
    """Samples that are tensors in memory, on any device."""

    tensors: Nest
    """(inputs, targets), nests of tensors of any dtype whose first dimension is N."""
    dataset: Any
    """The user's object."""

    @property
    def labels(self) -> Tensor | None:
        """int64 [N]: the targets if they are whole numbers, else from the data set's attributes."""
        _, targets = self.tensors
        if isinstance(targets, Tensor) and targets.dim() == 1 and not targets.is_floating_point():
            return targets.cpu().to(torch.int64)
        return super().labels

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return list_tensors(self.tensors)[0].device

    @property
    def sample_bytes(self) -> int:
        """Bytes of a sample."""
        return count_bytes(self.tensors) // max(1, len(self))

    def __len__(self) -> int:
        return len(list_tensors(self.tensors)[0])

    def make_example(self, count: int) -> Nest:
        """Return (inputs, targets) of the first sample, `count` times, on the CPU."""
        numbers = torch.zeros(count, dtype=torch.int64, device=self.device)
        return map_tensors(lambda tensor: take_rows(tensor, numbers).cpu(), self.tensors)

    def take(self, numbers: Tensor, epoch: int, sizes: Sequence[int]) -> list[Nest]:  # noqa: ARG002
        """(inputs, targets) of all samples, on the device of the tensors."""
        chosen = to_device(numbers, self.device)
        return [map_tensors(lambda tensor: take_rows(tensor, chosen), self.tensors)]

    def read(self, numbers: list[int], epoch: int) -> list[Any]:
        """Return samples one by one, as `Items` do."""
        (whole,) = self.take(torch.tensor(numbers), epoch, [len(numbers)])
        return [tuple(each) for each in split_nest(whole, lambda tensor: tensor.unbind(0))]
