"""Which field of an output is taken, and how outputs are described."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from dist_train.errors import ConfigError
from dist_train.tasks.output import describe, select

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
