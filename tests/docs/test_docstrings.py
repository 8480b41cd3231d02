"""Docstrings that users and readers rely on: examples of `--help`, lists of modules, the table of exceptions."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from dist_train import errors
from dist_train.settings.loader import load_config
from launch.cli import COMMANDS, load_command
from launch.sweeps.grid import Grid
from tests.conftest import ROOT

EXAMPLE = re.compile(r"^ *(dist-train \S+ configs/.*?)(?: {2,}.*)?$", re.MULTILINE)


def list_examples() -> list[str]:
    """The lines of `dist-train COMMAND --help` that name one of our settings files."""
    texts = [load_command(name).__doc__ or "" for name in COMMANDS]
    return [example for text in texts for example in EXAMPLE.findall(text)]


def list_packages() -> list[Path]:
    """The packages whose docstring lists modules, one a line."""
    return [
        path
        for folder in ("dist_train", "launch")
        for path in sorted((ROOT / folder).rglob("__init__.py"))
        if listed(path)
    ]


def listed(package: Path) -> set[str]:
    """What a docstring lists: the words that begin a line, if at least two of them are modules."""
    text = ast.get_docstring(ast.parse(package.read_text(encoding="utf-8"))) or ""
    words = set(re.findall(r"^ *(\w+)/? {2,}\S", text, re.MULTILINE))
    return words if len(words & modules(package)) > 1 else set()


def modules(package: Path) -> set[str]:
    """The names of the modules and packages in a package."""
    inside = (path for path in package.parent.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists())
    return {path.stem for path in inside} - {"__init__"}


@pytest.mark.parametrize("example", list_examples())
def test_the_examples_of_help_have_settings_that_load(example: str) -> None:
    """Each combination of an example's settings, where a sweep gives several."""
    _, _, path, *words = shlex.split(example)
    if not (ROOT / path).exists():
        pytest.skip("a file of the user")
    overrides = [word for word in words if re.match(r"[a-z_]+\.\w+=", word)]
    if example.startswith("dist-train sweep"):
        grid = Grid.parse(overrides)
        combinations = [[*grid.common, *each] for each in grid.combine()]
    else:
        combinations = [overrides]
    for each in combinations:
        load_config(ROOT / path, each)


@pytest.mark.parametrize("package", list_packages(), ids=lambda path: str(path.parent.relative_to(ROOT)))
def test_a_package_that_lists_its_modules_lists_all(package: Path) -> None:
    assert modules(package) - listed(package) == set()


def test_the_table_of_exceptions_has_all() -> None:
    named = re.findall(r"^(?:[├└│─ ]*)(\w+Error) ", errors.__doc__ or "", re.MULTILINE)
    defined = [name for name, value in vars(errors).items() if isinstance(value, type)]
    assert sorted(named) == sorted(defined)
