"""dist_train/README.md describes the tree as it is."""

import re

import pytest

from tests.conftest import ROOT
from tests.unit.test_layers import HEIGHT

TEXT = (ROOT / "dist_train" / "README.md").read_text()
TREE = TEXT.partition("## The life of a step")[0]
PATHS = sorted(set(re.findall(r"`([\w/]+(?:/|\.py))`", TEXT)))


@pytest.mark.parametrize("name", PATHS)
def test_paths_exist(name: str) -> None:
    assert (ROOT / "dist_train" / name).exists() or (ROOT / name).exists()


def test_the_tree_is_that_of_the_layers() -> None:
    rows = re.findall(r"^\| (`.*?) \|", TREE, re.MULTILINE)
    names = [re.findall(r"`(\w+)(?:/|\.py)`", row) for row in rows]
    listed = [name for row in names for name in row]
    assert sorted(listed) == sorted(set(HEIGHT) - {"__init__"})
    heights = [HEIGHT[name] for name in listed]
    assert heights == sorted(heights)
