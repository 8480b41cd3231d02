"""Files of modules are found as an import finds them, and nothing of them runs."""

import sys
from pathlib import Path

import pytest

from dist_train.own_code.modules import find_root, is_installed, is_own, list_imports, trace

RUNS = "raise SystemExit('this file must not run')\n"


@pytest.fixture
def tree(folder: Path) -> Path:
    """A package, a package without `__init__.py` in another, and a module, all in the folder `own`."""
    for name in ("single_one.py", "packed_one/__init__.py", "packed_one/inner.py", "loose_one/deep/leaf.py"):
        path = folder / "own" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(RUNS)
    return folder / "own"


@pytest.mark.parametrize("is_on_path", [False, True])
@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("single_one", ["single_one.py"]),
        ("single_one.nothing", ["single_one.py"]),
        ("packed_one", ["packed_one/__init__.py"]),
        ("packed_one.inner", ["packed_one/__init__.py", "packed_one/inner.py"]),
        ("packed_one.inner.name", ["packed_one/__init__.py", "packed_one/inner.py"]),
        ("loose_one.deep.leaf", [None, None, "loose_one/deep/leaf.py"]),
        ("nothing_at_all", []),
    ],
)
def test_trace(
    tree: Path, monkeypatch: pytest.MonkeyPatch, name: str, files: list[str | None], is_on_path: bool
) -> None:
    if is_on_path:
        monkeypatch.syspath_prepend(tree)
    found = list(trace(name, [tree]))
    assert [each.file for each in found] == [tree / file if file else None for file in files]
    assert {each.root for each in found if each.file} <= {tree}
    assert not {"single_one", "packed_one", "loose_one"} & set(sys.modules)


def test_an_installed_module_comes_before_a_folder(tree: Path) -> None:
    tree.joinpath("json.py").touch()
    assert [each.file for each in trace("json", [tree])] == [Path(str(sys.modules["json"].__file__))]
    assert [each.file for each in trace("sys", [tree])] == [None]


@pytest.mark.parametrize(
    ("source", "package", "names"),
    [
        ("import a, b.c as d", "", ["a", "b.c"]),
        ("from a import b, c", "", ["a.b", "a.c"]),
        ("def f():\n  try:\n    import a\n  except ImportError: pass", "", ["a"]),
        ("from . import b", "pack.sub", ["pack.sub.b"]),
        ("from .a import b", "pack.sub", ["pack.sub.a.b"]),
        ("from ..a import b", "pack.sub", ["pack.a.b"]),
        ("from ... import b", "pack.sub", []),
        ("from . import b", "", []),
        ("from .a import b", "", ["a.b"]),
        ("import (", "", []),
        ("\0", "", []),
        ("x = 1", "", []),
    ],
)
def test_imports_of_a_source(source: str, package: str, names: list[str]) -> None:
    assert list(list_imports(source.encode(), package)) == names


def test_what_is_the_users_own(tree: Path) -> None:
    (tree / ".git").touch()  # a worktree of git has a file
    assert find_root(tree / "packed_one") == tree
    assert find_root(tree.parent) == tree.parent
    assert is_own(tree / "single_one.py", [tree])
    assert not is_own(tree / "single_one.py", [tree / "packed_one"])
    assert not is_own(tree / ".venv/lib/python3/site-packages/single_one.py", [tree])
    for module in (pytest, sys.modules["json"], sys.modules["dist_train"]):
        assert is_installed(Path(str(module.__file__)))


def test_packages_in_a_folder_of_the_project_are_not_the_users_own(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tree / "libs"  # pip install --target libs
    (target / "torch-9.dist-info").mkdir(parents=True)
    assert is_own(target / "torch" / "nn.py", [tree]), "no import finds it there"
    monkeypatch.syspath_prepend(target)
    assert not is_own(target / "torch" / "nn.py", [tree])
    assert is_own(tree / "single_one.py", [tree])
