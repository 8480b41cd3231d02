"""The command and the environment of a training on this machine."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from dist_train.settings.schema import Distributed
from launch.arguments import AUTO
from launch.local import training_command
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("ranks", "restarts", "expected"),
    [
        (1, 0, ["-m", "dist_train"]),
        (1, 2, ["-m", "dist_train.elastic.agent", "--nproc", "1", "--max-restarts", "2"]),
        (3, 0, ["-m", "dist_train.elastic.agent", "--nproc", "3", "--max-restarts", "0"]),
        (None, 0, ["-m", "dist_train.elastic.agent", "--nproc", "auto", "--max-restarts", "0"]),
    ],
)
def test_one_process_needs_no_agent(ranks: int | None, restarts: int, expected: list[str]) -> None:
    assert training_command.build_command(["a.yaml", "b=1", "c=2"], ranks, restarts) == [
        sys.executable,
        *expected,
        "a.yaml",
        "b=1",
        "c=2",
    ]


@pytest.mark.parametrize(
    ("backend", "files", "visible", "expected"),
    [
        ("auto", [], None, 1),
        ("auto", ["nvidia0", "nvidia1"], None, None),
        ("nccl", ["nvidia0"], "0", None),
        ("auto", ["kfd"], None, None),
        ("gloo", ["nvidia0"], None, 1),
        ("auto", ["nvidia0"], "", 1),
        ("auto", ["nvidia0"], "-1", 1),
        ("auto", ["nvidiactl", "nvidia-uvm"], None, 1),
    ],
)
def test_auto_is_one_process_where_there_is_no_gpu(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    backend: str,
    files: list[str],
    visible: str | None,
    expected: int | None,
) -> None:
    for name in files:
        (tmp_path / name).touch()
    monkeypatch.setattr(training_command, "DEVICES", tmp_path)
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert training_command.resolve_ranks(AUTO, Distributed.model_validate({"backend": backend}), environ) == expected
    assert training_command.resolve_ranks(5, Distributed(), environ) == 5


def test_ranks_share_the_cores_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    assert training_command.build_environment(4, {"A": "b"}).items() >= {"A": "b", "OMP_NUM_THREADS": "3"}.items()
    assert training_command.build_environment(2, {}, runs=3)["OMP_NUM_THREADS"] == "2"
    assert training_command.build_environment(100, {})["OMP_NUM_THREADS"] == "1"
    assert training_command.build_environment(4, {"OMP_NUM_THREADS": "7"})["OMP_NUM_THREADS"] == "7"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["-P -m launch train --nproc 2", "-m launch train", "-m dist_train"])
def test_files_of_the_user_replace_no_modules(tmp_path: Path, command: str) -> None:
    """Beside the settings is a file for each module of Python and each that torch imports."""
    early = set(list_modules("import runpy"))  # before anything of ours runs
    known = {name for name in sys.stdlib_module_names if find_spec(name)}
    names = {*known, *list_modules("import runpy, torch, torchvision, torch.utils.data, tqdm, yaml")}
    for name in names - (early if command.startswith("-m") else set()):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a file of the user was imported')\n")
    settings = [str(ROOT / "configs" / "digits.yaml"), "train.max_steps=2", "run.dir=run", "log.every_steps=1"]
    variables = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, *command.split(), *settings],
        cwd=tmp_path, env=variables, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert (done.returncode, "digits: done, 2 steps" in done.stdout) == (0, True), done.stderr


def list_modules(code: str) -> list[str]:
    """Return the top-level modules that are loaded after some code."""
    show = f"{code}; import sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    found = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True).stdout.split()
    return [name for name in found if name.isidentifier() and name not in ("dist_train", "launch")]
