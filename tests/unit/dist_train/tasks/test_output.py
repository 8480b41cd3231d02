"""Which field of an output is taken, and how outputs are described."""

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from dist_train.errors import ConfigError
from dist_train.tasks.output import describe, refuse_changes, select

LOGITS = torch.randn(2, 3)


@dataclass
class Output:
    loss: Tensor | None
    logits: Tensor


Pair = namedtuple("Pair", "logits hidden")


@pytest.mark.parametrize(
    ("output", "field"),
    [
        (LOGITS, None),
        ({"logits": LOGITS}, "logits"),
        ({"items": LOGITS}, "items"),
        (OrderedDict(logits=LOGITS), "logits"),
        (Output(None, LOGITS), "logits"),
        (Pair(LOGITS, None), "logits"),
        (Pair(LOGITS, None), 0),
        ((None, LOGITS), 1),
        ((None, LOGITS), "1"),
        ([LOGITS], 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_field_is_a_key_an_attribute_or_a_place(output: Any, field: Any) -> None:
    assert select(output, field) is LOGITS


@pytest.mark.parametrize(
    ("output", "field", "what"),
    [
        (LOGITS, "logits", r"float32 \[2, 3\]"),
        (LOGITS, "shape", r"float32 \[2, 3\]"),
        (LOGITS, 0, r"float32 \[2, 3\]"),
        ({"a": LOGITS, "b": 1}, "logits", "a dict with a, b"),
        ({"a": LOGITS}, "items", "a dict with a"),
        (Output(None, LOGITS), "logit", "a Output with loss, logits"),
        ((LOGITS, None), 2, r"a tuple of float32 \[2, 3\], a NoneType"),
        ((), 0, "a tuple of nothing"),
        (None, "logits", "a NoneType"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_field_that_is_not_there_is_named_with_those_that_are(output: Any, field: Any, what: str) -> None:
    with pytest.raises(ConfigError, match=f"loss.output is {field}, but the network's output is {what}"):
        select(output, field)


def test_any_value_is_described() -> None:
    assert describe(torch.zeros((), dtype=torch.int64)) == "int64 []"
    assert describe({"a\x1b[2J": 1}) == r"a dict with a\x1b[2J"


CHANGES: dict[str, Callable[[Tensor], object]] = {
    "all": lambda tensor: tensor.zero_(),
    "a part": lambda tensor: tensor[0].fill_(1),
    "by a view": lambda tensor: tensor.view(-1).add_(1),
    "detached": lambda tensor: tensor.detach().mul_(2),
    "an index": lambda tensor: tensor.__setitem__(0, 3),
}
NESTS: dict[str, Callable[[Tensor], Any]] = {
    "a tensor": lambda tensor: tensor,
    "a dict": lambda tensor: {"text": "a", "logits": tensor},
    "a dataclass": lambda tensor: Output(None, tensor),
    "a tuple in a list": lambda tensor: [torch.ones(1), Pair(tensor, 3)],
}


@pytest.mark.parametrize("of", ["output", "target"])
@pytest.mark.parametrize("nest", NESTS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_in_place_is_named(change: str, nest: str, of: str) -> None:
    tensor, other = torch.randn(2, 3), torch.randn(2)
    nests = (NESTS[nest](tensor), other) if of == "output" else (other, NESTS[nest](tensor))
    expected = pytest.raises(ConfigError, match=f"^loss f: changes the {of} in place.* {of}.clone")
    with expected, refuse_changes("loss f", *nests):
        CHANGES[change](tensor)
    with refuse_changes("loss f", *nests):
        CHANGES[change](tensor.clone())


def test_what_torch_does_not_count_is_no_fault() -> None:
    with torch.inference_mode():
        tensor = torch.ones(2)
        with refuse_changes("loss f", tensor, tensor):
            tensor.add_(1)
