"""Tensors in tuples, lists, dicts and dataclasses are mapped, listed and split, beside other values."""

from collections import OrderedDict, UserDict, defaultdict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from dist_train.nest import list_tensors, map_tensors, move_inputs, split_nest, to_floats

Pair = namedtuple("Pair", ["first", "second"])


@dataclass
class Output:
    logits: Tensor
    name: str = "logits"
    more: Any = None


@dataclass(frozen=True)
class Frozen:
    x: Tensor


A, B = torch.arange(6.0).view(3, 2), torch.arange(3)
NESTS: tuple[Any, ...] = (
    A,
    (A, B),
    [A, [B], "text", None, 3],
    {"a": A, "b": {"c": (B,)}},
    OrderedDict(a=A),
    UserDict(a=A, b=B),
    defaultdict(lambda: B, a=A),
    Pair(A, B),
    Output(A, more=(B,)),
    Frozen(A),
    (),
    {},
)


@pytest.mark.parametrize("nest", NESTS, ids=lambda nest: type(nest).__name__)
def test_a_nest_keeps_its_structure(nest: Any) -> None:
    mapped = map_tensors(lambda tensor: tensor + 1, nest)
    assert type(mapped) is type(nest)
    before, after = list_tensors(nest), list_tensors(mapped)
    assert [tensor.tolist() for tensor in after] == [(tensor + 1).tolist() for tensor in before]
    again = map_tensors(lambda tensor: tensor, nest)
    assert all(one is other for one, other in zip(list_tensors(again), before, strict=True))


@pytest.mark.parametrize("nest", [nest for nest in NESTS if list_tensors(nest)], ids=lambda nest: type(nest).__name__)
def test_the_parts_of_a_nest_are_those_of_its_tensors(nest: Any) -> None:
    parts = split_nest(nest, lambda tensor: torch.split(tensor, [1, 2]))
    assert [type(part) for part in parts] == 2 * [type(nest)]
    joined = [torch.cat(pieces) for pieces in zip(*map(list_tensors, parts), strict=True)]
    assert all(torch.equal(one, other) for one, other in zip(joined, list_tensors(nest), strict=True))


def test_only_floats_of_low_precision_become_fp32() -> None:
    dtypes = (torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int64, torch.bool, torch.complex64)
    found = to_floats([torch.zeros(1, dtype=dtype) for dtype in dtypes])
    assert [tensor.dtype for tensor in found] == [torch.float32, torch.float32, *dtypes[2:]]


def test_only_images_have_a_memory_format() -> None:
    images, others = move_inputs((torch.zeros(2, 3, 4, 4), torch.zeros(2, 3)), torch.device("cpu"), torch.channels_last)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert others.is_contiguous()
