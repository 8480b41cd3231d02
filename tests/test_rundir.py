"""The directory of a run: refused before anything is written, moved aside and never lost, never half written."""

import os
from pathlib import Path

import pytest

from dist_train.errors import ConfigError
from dist_train.rundir import RunDir, write_whole


def test_a_status_says_how_the_run_is_doing(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "runs" / "digits")
    run.make()
    assert run.read_status() == {}
    run.write_status("running", 0, 0)
    run.write_status("preempted", 12, 3, signal="SIGTERM")
    status = run.read_status()
    assert (status["state"], status["step"], status["epoch"], status["signal"]) == ("preempted", 12, 3, "SIGTERM")
    assert status["pid"] == os.getpid()
    assert status["host"]
    assert status["updated"].endswith("+00:00")


def test_make_makes_what_is_missing(tmp_path: Path) -> None:
    run = RunDir(str(tmp_path / "runs" / "digits"))
    run.make()
    run.make()
    assert run.logs.is_dir()
    assert run.checkpoints.is_dir()


def test_an_earlier_run_is_moved_to_the_first_free_number(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "digits")
    assert run.move_aside() is None
    for number in (1, 2, 3):
        run.make()
        run.config.write_text(f"run {number}")
        assert run.move_aside() == tmp_path / f"digits.old-{number}"
        assert not run.path.exists()
    found = {path.parent.name: path.read_text() for path in tmp_path.glob("*/config.yaml")}
    assert found == {f"digits.old-{number}": f"run {number}" for number in (1, 2, 3)}


def test_asking_leaves_no_trace(tmp_path: Path) -> None:
    RunDir(tmp_path / "runs" / "digits").check_writable()
    assert list(tmp_path.iterdir()) == []
    run = RunDir(tmp_path / "there")
    run.make()
    before = sorted(run.path.rglob("*"))
    run.check_writable()
    assert sorted(run.path.rglob("*")) == before


def test_a_relative_directory_is_asked_about_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    RunDir("runs/digits").check_writable()


@pytest.mark.parametrize("below", ["", "digits", "deep/digits"])
def test_a_file_in_the_way_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("the user's")
    with pytest.raises(ConfigError, match=rf"^run\.dir {tmp_path / 'file' / below}: can't be written: Not a directory"):
        RunDir(tmp_path / "file" / below).check_writable()
    assert (tmp_path / "file").read_text() == "the user's"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that even root can't write")
def test_a_file_system_that_takes_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^run\.dir /proc/digits: can't be written: .* \(/proc\)\. Set run\.dir"):
        RunDir("/proc/digits").check_writable()


def test_a_name_that_no_file_system_takes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"can't be written: File name too long"):
        RunDir(tmp_path / ("a" * 300)).check_writable()


def test_a_file_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "status.json", []
    write_whole(path, "old")
    real = Path.replace

    def replace(source: Path, target: Path) -> Path:
        seen.append((path.read_text(), source.read_text()))
        return real(source, target)

    monkeypatch.setattr(Path, "replace", replace)
    write_whole(path, "neu und größer")
    assert seen == [("old", "neu und größer")]
    assert path.read_text(encoding="utf-8") == "neu und größer"
    assert list(tmp_path.iterdir()) == [path]
