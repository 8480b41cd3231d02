"""What git says of a folder is recorded, without what it does not track."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from dist_train.own_code.working_tree import describe_working_tree

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder: Path, *arguments: str) -> None:
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    subprocess.run(command, check=True, capture_output=True, env=environ)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A working tree with one commit and a changed file."""
    git(tmp_path, "init", "-q")
    tmp_path.joinpath("nets.py").write_text("width = 1\n")
    tmp_path.joinpath("sub").mkdir()
    git(tmp_path, "add", "nets.py")
    git(tmp_path, "commit", "-qm", "first")
    tmp_path.joinpath("nets.py").write_text("width = 2\n")
    return tmp_path


def test_commit_and_diff(tree: Path) -> None:
    tree.joinpath("secret.txt").write_text("password")
    found = describe_working_tree(tree / "sub")
    assert found is not None
    assert len(found.commit) == 40
    assert b"-width = 1\n+width = 2\n" in found.diff
    assert b"password" not in found.diff
    assert b"secret" not in found.diff
    git(tree, "checkout", "nets.py")
    subprocess.run(["git", "apply"], cwd=tree, input=found.diff, check=True)
    assert tree.joinpath("nets.py").read_text() == "width = 2\n"


def test_a_clean_tree_has_no_diff(tree: Path) -> None:
    git(tree, "commit", "-qam", "second")
    found = describe_working_tree(tree)
    assert found is not None
    assert found.diff == b""


def test_settings_of_git_run_no_programs_and_change_nothing(tree: Path) -> None:
    program = tree / "program"
    program.write_text(f"#!/bin/sh\ntouch {tree}/it-ran\n")
    program.chmod(0o755)
    tree.joinpath(".gitattributes").write_text("*.py diff=mine\n")
    for name in ("diff.mine.command", "diff.mine.textconv", "diff.external", "core.fsmonitor", "core.pager"):
        git(tree, "config", name, str(program))
    git(tree, "config", "color.diff", "always")
    git(tree, "config", "diff.relative", "true")
    found = describe_working_tree(tree / "sub")
    assert found is not None
    assert b"-width = 1\n+width = 2\n" in found.diff
    assert not tree.joinpath("it-ran").exists()


def test_variables_of_a_hook_lead_nowhere_else(
    tree: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = describe_working_tree(tree)
    monkeypatch.setenv("GIT_DIR", str(tmp_path_factory.mktemp("other")))
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", "false")
    assert describe_working_tree(tree) == expected


def test_without_git(tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path / "sub", "init", "-q")
    assert describe_working_tree(tree / "sub") is None, "it has no commit"
    assert describe_working_tree(tree / "missing") is None
    monkeypatch.setenv("PATH", "/nowhere")
    assert describe_working_tree(tree) is None
