"""Numbers with their nouns."""

import ast
import re

import pytest

from dist_train.system.plural import format_count
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("number", "expected"), [(0, "0 passes"), (1, "1 pass"), (2, "2 passes"), (1024, "1,024 passes")]
)
def test_a_number_has_its_noun(number: int, expected: str) -> None:
    assert format_count(number, "pass", "passes") == expected
    assert format_count(number, "step") == expected.replace("passes", "steps").replace("pass", "step")


def test_no_message_leaves_the_plural_to_the_reader() -> None:
    """`1 rank(s)`."""
    for folder in ("dist_train", "launch"):
        for path in (ROOT / folder).rglob("*.py"):
            texts = (node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
            found = [text for text in texts if isinstance(text, str) and re.search(r"[a-z]\((s|es)\)", text)]
            assert not found, f"{path}: use dist_train.system.plural"
