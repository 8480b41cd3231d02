"""Batches of items: what is stacked, and what is told of items that don't fit together."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import default_collate
from torchvision.transforms import functional

from dist_train.data.own.stacking import StackingError, compute_digest, describe_samples, stack_items
from dist_train.nest import list_tensors
from tests.unit.dist_train.data.own.sets import KINDS

LIKE_TORCH = [kind for kind in KINDS if kind not in ("picture", "grey picture", "dataclass", "reversed array")]


@pytest.mark.parametrize("kind", LIKE_TORCH)
def test_values_are_those_of_torch(kind: str) -> None:
    """Only Python's floats have another type: torch's default one."""
    items = [KINDS[kind](number) for number in range(5)]
    found, expected = list_tensors(stack_items(items)), list_tensors(default_collate(items))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other.to(one.dtype))
        assert one.dtype == other.dtype or (one.dtype, other.dtype) == (torch.float32, torch.float64)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F", "P"])
def test_pictures_of_each_mode_are_those_of_torchvision(mode: str) -> None:
    pictures = [Image.new(mode, (4, 3), number) for number in (0, 1)]
    found = stack_items(pictures)
    assert torch.equal(found, torch.stack([functional.to_tensor(picture) for picture in pictures]))


PLAIN = (torch.ones(2), 1)
OTHERS: dict[str, Any] = {
    "shape": (torch.ones(3), 1),
    "dimensions": (torch.ones(2, 1), 1),
    "dtype": (torch.ones(2, dtype=torch.float64), 1),
    "array": (np.ones(2, np.float32), 1),
    "float": (torch.ones(2), 1.0),
    "bool": (torch.ones(2), True),
    "text": (torch.ones(2), "1"),
    "none": (torch.ones(2), None),
    "parts": ((torch.ones(2),), 1),
    "longer": (torch.ones(2), 1, 2),
    "list": [torch.ones(2), 1],
    "dict": {"x": torch.ones(2), "y": 1},
}


@pytest.mark.parametrize("name", OTHERS)
def test_an_item_of_another_structure_is_named(name: str) -> None:
    for items, position in (([PLAIN, PLAIN, OTHERS[name]], 2), ([PLAIN, OTHERS[name], PLAIN], 1)):
        with pytest.raises(StackingError, match=r"item.* is ") as caught:
            stack_items(items)
        assert caught.value.position == position
    with pytest.raises(StackingError):
        stack_items([OTHERS[name], PLAIN])


@pytest.mark.parametrize("value", [None, object(), {1, 2}, np.array([None]), slice(3), torch.nn.Linear(1, 1)])
def test_what_is_no_data_is_refused(value: Any) -> None:
    with pytest.raises(StackingError, match=r"the input\[0\] is .*"):
        stack_items([(value, 1)], "the input")


@pytest.mark.parametrize("value", [2**70, -(2**70), torch.ones(2).to_sparse()])
def test_what_torch_can_not_stack_is_refused(value: Any) -> None:
    with pytest.raises(StackingError, match=r"the input\[0\] (is a number that no tensor can hold|can't be stacked)"):
        stack_items([(value, 1), (value, 1)], "the input")


@pytest.mark.parametrize("kind", KINDS)
def test_a_digest_tells_values_and_types_apart(kind: str) -> None:
    one, same, other = (stack_items([KINDS[kind](number)]) for number in (1, 1, 2))
    assert compute_digest(one) == compute_digest(same)
    if kind != "bool":  # most numbers are true
        assert compute_digest(one) != compute_digest(other)


def test_structures_are_described_without_the_batch() -> None:
    assert describe_samples(stack_items([(torch.ones(2, 3), 1)] * 5)) == "(float32 [2, 3], int64 [])"
    assert describe_samples(stack_items([({"a": [torch.ones(2), 0.5]}, ())])) == "({a: [float32 [2], float32 []]}, ())"
