"""The layers of `dist_train`: a module imports only from layers below its own, and `launch` starts without torch."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, Python

PACKAGE = ROOT / "dist_train"
LAYERS = (
    (
        "errors, seeds, nests of tensors, lines of evaluations and our own folders need nothing of ours",
        {"__init__", "errors", "eval_line", "installation", "nest", "seeds"},
    ),
    ("what the machine and its files are like", {"system"}),
    ("code of the user is found and imported; recipes come with the program", {"own_code", "recipes"}),
    ("settings say what to train, without torch", {"settings"}),
    ("models know the settings only", {"models"}),
    ("a run has a directory, and commands that read it have arguments", {"run_dir", "run_arguments"}),
    ("diagnostics write there how each rank is doing", {"diagnostics"}),
    ("ranks meet in a process group", {"distributed"}),
    ("the parts of a training, which never import each other", {"data", "execution", "monitoring", "optim", "tasks"}),
    ("a checkpoint keeps what the parts choose", {"checkpoint"}),
    ("an evaluation reads a checkpoint", {"evaluate"}),
    ("the state of a training and its reports", {"training"}),
    ("the loop", {"train"}),
    ("the command of one rank", {"__main__"}),
    ("the agent that forks ranks", {"elastic"}),
    ("the interfaces: the command `dist-train`, and Python", {"command", "interface"}),
    ("commands on data and on trained networks", {"results"}),
)
WITHOUT_TORCH = (
    *("dist_train", "dist_train.__main__", "dist_train.errors", "dist_train.eval_line", "dist_train.run_dir"),
    "dist_train.run_arguments",
    "dist_train.elastic.agent",
    *("dist_train.settings", "dist_train.diagnostics", "dist_train.own_code"),
    *("dist_train.command", "dist_train.installation", "dist_train.recipes"),
    *(
        f"dist_train.system.{name}"
        for name in (
            "allocator",
            "append_file",
            "cpu",
            "environment",
            "escape",
            "plural",
            "exit",
            "lock_file",
            "process",
            "read_file",
            "stop_signals",
            "inherited_state",
        )
    ),
    *("dist_train.checkpoint.reader", "dist_train.checkpoint.store"),
    *(f"dist_train.results.{name}" for name in ("charts", "curves", "figure", "grid", "output_file", "points")),
    *(
        f"dist_train.monitoring.{name}"
        for name in ("event_files", "event_records", "ledger", "ledger_comparison", "metrics", "pictures")
    ),
)
"""Modules, and packages with all their modules, that import no torch at their top: a wrong key is answered at once."""
HEAVY = {"matplotlib", "numpy", "tensorboard", "torch", "torchvision"}
HEIGHT = {room: height for height, (_, rooms) in enumerate(LAYERS) for room in rooms}
LAUNCH = sorted((ROOT / "launch").rglob("*.py"))
NEED_NETWORK = ROOT / "launch" / "commands" / "results"
"""Commands that use a trained network: their `run` imports what has torch, and nothing does so before."""
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """`dist_train.data.sampler` for dist_train/data/sampler.py."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    """The package or module right below `dist_train` that a dotted name belongs to."""
    first = [*module.split("."), "__init__"][1]
    return "__init__" if first == "__version__" else first


def imports(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Dotted names of the modules imported; `from dist_train import seeds` imports `dist_train.seeds`."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if is_module(name) else node.module or "" for name in names)


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file() or name == "dist_train.__version__"


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


def tree_of(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"))


def is_without_torch(module: str) -> bool:
    exact = ("dist_train", "dist_train.__version__", "dist_train.results")
    return module in exact or any(
        module == name or module.startswith(f"{name}.") for name in WITHOUT_TORCH if name != "dist_train"
    )


def test_every_room_is_in_the_table_once() -> None:
    listed = [room for _, rooms in LAYERS for room in rooms]
    assert len(listed) == len(set(listed))
    assert {room_of(name_of(module)) for module in MODULES} == set(listed)


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_imports_lead_downward(module: Path) -> None:
    own = room_of(name_of(module))
    nodes = at_import if own == "__init__" else ast.walk  # it names for type checkers what it imports when it is used
    found = {name for name in imports(nodes(tree_of(module))) if name.split(".")[0] == "dist_train"}
    upward = sorted(name for name in found if room_of(name) != own and HEIGHT[room_of(name)] >= HEIGHT[own])
    assert upward == [], f"{name_of(module)} imports {upward}, which are not below it"


def test_packages_have_no_import_cycles() -> None:
    below = {name_of(module): set(imports(at_import(tree_of(module)))) for module in MODULES}
    below = {name: {other for other in found if other in below and other != name} for name, found in below.items()}
    left = set(below)
    while free := {name for name in left if not below[name] & left}:
        left -= free
    assert left == set()


@pytest.mark.parametrize("folder", sorted({module.parent for module in (*MODULES, *LAUNCH)}), ids=str)
def test_no_folder_holds_more_than_twelve_modules(folder: Path) -> None:
    assert len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) <= 12


@pytest.mark.parametrize("module", [path for path in MODULES if is_without_torch(name_of(path))], ids=name_of)
def test_modules_without_torch_import_nothing_that_imports_it(module: Path) -> None:
    for name in imports(at_import(tree_of(module))):
        assert name.split(".")[0] not in HEAVY, name
        assert name.split(".")[0] != "dist_train" or is_without_torch(name), name


def test_modules_without_torch_are_imported_without_it(interpreter: Python) -> None:
    names = [name_of(path) for path in MODULES if is_without_torch(name_of(path))]
    done = interpreter("-c", f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("module", LAUNCH, ids=name_of)
def test_launch_imports_only_modules_without_torch(module: Path) -> None:
    for name in imports(ast.walk(tree_of(module))):
        package = name.split(".")[0]
        assert package in {"dist_train", "launch", "pydantic", "yaml", *sys.stdlib_module_names}, name
    nodes = at_import if module.parent == NEED_NETWORK else ast.walk
    for name in imports(nodes(tree_of(module))):
        assert name.split(".")[0] != "dist_train" or is_without_torch(name), name


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_dist_train_never_imports_launch(module: Path) -> None:
    assert "launch" not in {name.split(".")[0] for name in imports(ast.walk(tree_of(module)))}
