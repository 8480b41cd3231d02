"""The order of the rooms, as one table: a module imports only from layers below its own."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, Python

PACKAGE = ROOT / "dist_train"
LAYERS = (
    ("__init__", "errors", "process", "stop"),
    ("config", "store", "lines", "events"),
    ("rundir", "ledger", "beats", "host"),
    ("wording", "failures", "stacks"),
    ("loading", "reference", "plan", "verdict"),
    ("seeds", "eager", "flat", "threads", "world", "watchdog", "postmortem"),  # torch begins here
    ("choices", "entry", "console", "recorder", "shared_memory"),
    ("models", "data", "optim", "compiled", "parallel", "checkpoint", "metrics", "facts"),  # parts: never each other
    ("training", "evaluate"),
    ("resume", "spoiled"),
    ("report",),
    ("train",),
    ("__main__",),
    ("forks",),
    ("agent",),
)
WITHOUT_TORCH = (
    *("errors", "process", "stop", "config", "store", "lines", "events", "rundir", "ledger", "host"),
    *("beats", "failures", "stacks", "verdict", "watchdog", "postmortem", "recorder"),
    *("wording", "loading", "reference", "plan", "entry", "metrics", "__main__", "agent"),
)
HEIGHT = {room: height for height, rooms in enumerate(LAYERS) for room in rooms}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room_of(module: str) -> str:
    """The room of a dotted name: `dist_train.data.batches` lies in `data`, `dist_train.__version__` in `__init__`."""
    first = [*module.split("."), "__init__"][1]
    return first if (PACKAGE / first).is_dir() or (PACKAGE / f"{first}.py").is_file() or first in HEIGHT else "__init__"


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Dotted names of what is imported; `from dist_train import seeds` imports `dist_train.seeds`."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            module = node.module or ""
            yield from (f"{module}.{alias.name}" for alias in node.names) if module == "dist_train" else [module]


def at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """The nodes that run when a module is imported: all but the bodies of functions."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting.extend(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))


def rooms_imported(module: Path) -> set[str]:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    return {room_of(name) for name in imports(ast.walk(tree)) if name.split(".")[0] == "dist_train"}


def test_every_room_is_in_the_table_once() -> None:
    listed = [room for rooms in LAYERS for room in rooms]
    assert len(listed) == len(set(listed))
    assert MODULES
    assert {room_of(name_of(module)) for module in MODULES} - set(listed) == set()


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_imports_lead_downward(module: Path) -> None:
    own = room_of(name_of(module))
    others = rooms_imported(module) - {own if module.parent != PACKAGE else ""}
    upward = sorted(room for room in others if HEIGHT[room] >= HEIGHT[own])
    assert upward == [], f"{name_of(module)} imports {upward}, which are not below it"


def test_rooms_below_torch_import_nothing_that_imports_it() -> None:
    for room in WITHOUT_TORCH:
        path = PACKAGE / f"{room}.py"
        if not path.exists():
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for name in imports(at_import(tree)):
            if name.split(".")[0] == "dist_train":
                assert room_of(name) in (*WITHOUT_TORCH, "__init__"), f"{room} imports {name} at its top"
            else:
                assert name.split(".")[0] not in ("torch", "torchvision", "numpy", "tensorboard"), f"{room}: {name}"


def test_rooms_below_torch_are_imported_without_it(python: Python) -> None:
    rooms = [f"dist_train.{room}" for room in WITHOUT_TORCH if (PACKAGE / f"{room}.py").exists()]
    if "dist_train.loading" not in rooms:
        rooms.remove("dist_train.__main__")  # it reads the settings first
    done = python("-c", f"import sys, {', '.join(rooms)}; sys.exit('torch' in sys.modules)")
    assert (done.returncode, done.stderr) == (0, "")
