"""dist_train/README.md describes the tree as it is."""

import re

import pytest

from tests.conftest import ROOT

TEXT = (ROOT / "dist_train" / "README.md").read_text()
PATHS = sorted(set(re.findall(r"`([\w/]+(?:/|\.py))`", TEXT)))


@pytest.mark.parametrize("name", PATHS)
def test_paths_exist(name: str) -> None:
    assert (ROOT / "dist_train" / name).exists() or (ROOT / name).exists()
