"""The README of the benchmarks."""

import re
from importlib.util import find_spec

from tests.conftest import ROOT

TEXT = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")


def test_its_modules_exist() -> None:
    modules = re.findall(r"python -m (benchmarks[\w.]+)", TEXT)
    assert len(modules) > 3
    assert [module for module in modules if find_spec(module) is None] == []


def test_its_folders_exist() -> None:
    folders = re.findall(r"^\| `([\w/]+/)` \|", TEXT, re.MULTILINE)
    assert len(folders) > 5
    assert [folder for folder in folders if not (ROOT / "benchmarks" / folder).is_dir()] == []
