"""`dist-train new` makes all of a project or nothing; `tests/package` trains it."""

import os
from pathlib import Path

import pytest

from launch import cli
from launch.local.new_project import OWN_NAME
from tests.conftest import ROOT
from tests.docs.test_ci import LINTERS, lint

TEMPLATE = ROOT / "template"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(project: Path) -> list[str]:
    return sorted(str(path.relative_to(project)) for path in project.rglob("*") if path.is_file())


@pytest.mark.parametrize("is_there", [False, True])
def test_it_has_the_files_of_the_template_and_the_batch_script(
    folder: Path, capsys: pytest.CaptureFixture[str], is_there: bool
) -> None:
    if is_there:
        (folder / "mine").mkdir()
    assert cli.main(["new", "mine"]) == 0
    made = files(folder / "mine")
    assert {"settings.yaml", "nets.py", "sets.py", "test_project.py", "README.md", "train.sbatch"} < set(made)
    assert ".github/workflows/test.yml" in made
    assert (folder / "mine" / "train.sbatch").read_bytes() == (ROOT / "slurm" / "train.sbatch").read_bytes()
    assert "name: mine" in (folder / "mine" / "settings.yaml").read_text()
    assert not [file for file in made if OWN_NAME in (folder / "mine" / file).read_text()]
    assert "cd mine" in capsys.readouterr().out
    assert [path.name for path in folder.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../a", "/a", "-a", ".a", "a b", "a\nb", "a\0b", "ä", "a" * 101, "a$b", "~", "a:b"]
)
def test_a_name_that_can_be_none_is_refused(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert cli.main(["new", "--", name] if name.startswith("-") else ["new", name]) == 2
    assert capsys.readouterr().err
    assert not list(folder.iterdir())


@pytest.mark.parametrize("kind", ["file", "folder with a file", "link", "link to nothing"])
def test_what_is_there_stays(folder: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    path = folder / "mine"
    if kind == "file":
        path.write_text("x")
    elif kind == "folder with a file":
        path.mkdir()
        (path / ".hidden").write_text("x")
    else:
        path.symlink_to(folder if kind == "link" else folder / "nothing")
    before = sorted(folder.rglob("*"))
    assert cli.main(["new", "mine"]) == 2
    assert capsys.readouterr().err == "mine: is there already; choose another name, or remove it\n"
    assert sorted(folder.rglob("*")) == before


def test_a_full_disk_leaves_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28), "mine/settings.yaml")

    monkeypatch.setattr(Path, "write_text", fail)
    assert cli.main(["new", "mine"]) == 2
    assert "mine: can't be made: No space left on device" in capsys.readouterr().err
    assert not list(folder.iterdir())


@pytest.mark.parametrize("linter", LINTERS, ids=lambda linter: linter[0])
def test_its_workflow_is_one_that_github_takes(linter: tuple[str, ...]) -> None:
    done = lint(linter, TEMPLATE / ".github" / "workflows" / "test.yml")
    assert done.returncode == 0, done.stdout + done.stderr
