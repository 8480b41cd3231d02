"""CONTRIBUTING.md: each diff applies to a copy of the tree, and its command works there."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, Python

ADDITION = re.compile(r"^## (Add .*?)\n.*?```diff\n(.*?)```.*?```sh\n(.*?)```", re.DOTALL | re.MULTILINE)
ADDITIONS = ADDITION.findall((ROOT / "CONTRIBUTING.md").read_text())
EXPECTED = {"Add a command": "runs/digits: 0.0 MB", "Add a check of the settings": "a mirrored digit is not a digit"}


def apply(diff: str, tree: Path) -> list[str]:
    """Apply a diff whose hunks have no line numbers; returns the files it touches."""
    files = re.findall(r"^--- (\S+)\n\+\+\+ b/(\S+)\n(.*?)(?=^--- |\Z)", diff, re.DOTALL | re.MULTILINE)
    for source, name, hunks in files:
        if source == "/dev/null":
            assert not (tree / name).exists()
            (tree / name).write_text(_take("+", hunks))
            continue
        text = (tree / name).read_text()
        for hunk in hunks.split("@@\n")[1:]:
            assert text.count(_take("- ", hunk)) == 1, hunk
            text = text.replace(_take("- ", hunk), _take("+ ", hunk))
        (tree / name).write_text(text)
    return [name for _, name, _ in files]


def _take(marks: str, hunk: str) -> str:
    """The lines of a hunk that begin with one of `marks`."""
    return "".join(line[1:] for line in hunk.splitlines(keepends=True) if line[0] in marks)


def test_there_is_one_for_each_kind() -> None:
    assert [title for title, _, _ in ADDITIONS] == [
        "Add a model",
        "Add a data set",
        "Add an optimizer",
        "Add a task",
        "Add a command",
        "Add a check of the settings",
    ]


@pytest.mark.parametrize(("title", "diff", "_"), ADDITIONS, ids=[title for title, _, _ in ADDITIONS])
def test_the_diff_fits_the_source(title: str, diff: str, _: str, tmp_path: Path) -> None:
    for name in re.findall(r"^\+\+\+ b/(\S+)", diff, re.MULTILINE):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, tmp_path / name)
    assert apply(diff, tmp_path), title


@pytest.mark.long
def test_lint_types_and_tests_pass_with_all_of_them(tmp_path: Path, interpreter: Python) -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name, follow_symlinks=False)
    for _, diff, _ in ADDITIONS:
        apply(diff, tmp_path)
    environ = {"PYTHONPATH": str(tmp_path)}
    settings = interpreter("-m", "dist_train", "--settings", cwd=tmp_path, env=environ)
    (tmp_path / "configs" / "README.md").write_text(settings.stdout)
    touched = ("settings", "models", "optim", "data/test_registry.py")
    tests = [*(f"tests/unit/dist_train/{name}" for name in touched), "tests/docs/test_docs.py"]
    quick = ["pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow and not long", *tests]
    for words in (["ruff", "check", "--no-cache"], ["mypy"], quick):
        done = interpreter("-m", *words, cwd=tmp_path, env=environ, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("title", "diff", "command"), ADDITIONS, ids=[title for title, _, _ in ADDITIONS])
def test_the_diff_applies_and_its_command_works(
    title: str, diff: str, command: str, tmp_path: Path, interpreter: Python
) -> None:
    for name in ("dist_train", "launch", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    files = apply(diff, tmp_path)
    assert 1 <= len(set(files)) <= 3
    for action in (["check"], ["format", "--check"]):
        ruff = [str(Path(sys.executable).with_name("ruff")), *action, "--no-cache", *files]
        linted = subprocess.run(ruff, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert linted.returncode == 0, linted.stdout
    for folder in ("data", "runs/digits"):
        (tmp_path / folder).mkdir(parents=True)
    for split in ("train", "test"):
        images = np.random.default_rng(0).integers(0, 256, (40, 1, 28, 28), dtype=np.uint8)
        np.savez(tmp_path / "data" / f"{split}.npz", images=images, labels=np.arange(40) % 10)
    words = shlex.split(command, comments=True)
    if words[0] == "dist-train":
        words[:1] = ["python", "-m", "launch"]
    else:
        words.append("train.max_steps=2")
    done = interpreter(*words[1:], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == (2 if "check" in title else 0), done.stdout + done.stderr
    assert EXPECTED.get(title, "digits: done, 2 steps") in done.stdout + done.stderr
