"""Saving in a thread: what is waited for, and what happens when the disk or the run fails."""

import errno
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_train.checkpoint import saver as saver_module
from dist_train.checkpoint import serialization
from dist_train.checkpoint.saver import Saver
from dist_train.checkpoint.store import Store
from dist_train.errors import ConfigError
from tests.unit.dist_train.checkpoint.test_serialization import content


def test_saves_go_on_in_a_thread_until_they_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_go, real = threading.Event(), os.fsync
    called: list[str] = []

    def fsync(descriptor: int) -> None:
        called.append(threading.current_thread().name)
        assert may_go.wait(10)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with Saver(Store(tmp_path), keep_last=2, asynchronous=True) as saver:
        saver.save(1, content(1))
        assert Store(tmp_path).steps() == []
        may_go.set()
        saver.wait()
        assert Store(tmp_path).steps() == [1]
        saver.save(2, content(2), "best")
        saver.save(3, content(3))
        assert Store(tmp_path).steps() in ([1, 2], [2, 3])
        saver.finish()
    assert set(called) == {"checkpoint_0"}
    assert serialization.load(tmp_path / "best").files["training.pt"]["step"] == 2
    assert Store(tmp_path).steps() == [2, 3]


@pytest.mark.parametrize("asynchronous", [True, False])
def test_weights_are_hashed_as_they_are_when_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    may_go, threads = threading.Event(), list[str]()

    def hash_late(weights: dict[str, Any]) -> str:
        threads.append(threading.current_thread().name)
        assert may_go.wait(10)
        return serialization.weights_sha256(weights)

    monkeypatch.setattr(saver_module, "weights_sha256", hash_late)
    weights = content(1)["model.pt"]
    expected = serialization.weights_sha256(weights)
    with Saver(Store(tmp_path), keep_last=1, asynchronous=asynchronous) as saver:
        may_go.set() if not asynchronous else None
        found = saver.hash_weights(weights)
        for tensor in weights.values():
            tensor.add_(1)
        may_go.set()
        assert found.result() == expected
    assert threads == ["checkpoint_0" if asynchronous else "MainThread"]


def test_without_a_thread_a_save_is_done_when_it_returns(tmp_path: Path) -> None:
    before = threading.active_count()
    with Saver(Store(tmp_path), keep_last=1, asynchronous=False) as saver:
        for step in (1, 2):
            saver.save(step, content(step))
            assert Store(tmp_path).steps() == [step]
            assert threading.active_count() == before


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_full_disk_is_told_of_and_the_next_save_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, asynchronous: bool
) -> None:
    with Saver(Store(tmp_path), keep_last=3, asynchronous=asynchronous) as saver:
        saver.save(1, content(1))
        saver.wait()
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            saver.save(2, content(2))
            saver.wait()
        assert saver.last_failed == f"{tmp_path / 'step_00000002'}: was not saved: No space left on device"
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert "step_00000002: was not saved: No space left on device. The run continues" in caplog.text
        assert saver.finish() == f"{saver.last_failed}. It was the last one; the same command trains again what it held"
        saver.save(3, content(3))
        assert saver.finish() is None
    assert Store(tmp_path).steps() == [1, 3]


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = content(2)
    broken["model.pt"]["conv1.weight"][0, :2] = torch.tensor([float("nan"), float("inf")])
    with Saver(Store(tmp_path), keep_last=3, asynchronous=True) as saver:
        saver.save(1, content(1))
        saver.save(2, broken)
        assert "model.pt has values that are not finite: conv1.weight (2 of 6)" in str(saver.finish())
    assert "was not saved" in caplog.text
    assert Store(tmp_path).steps() == [1]


@pytest.mark.parametrize("then", ["save", "wait", "finish", "close"])
def test_a_fault_that_is_not_the_disk_s_ends_the_run(tmp_path: Path, then: str) -> None:
    def check() -> None:
        raise ConfigError("taken over")

    saver = Saver(Store(tmp_path), keep_last=3, asynchronous=True, check=check)
    saver.save(1, content(1))
    with pytest.raises(ConfigError, match="taken over"):
        getattr(saver, then)(*([2, content(2)] if then == "save" else []))
    saver.close()
    assert Store(tmp_path).steps() == []


def test_what_ended_the_run_is_not_hidden_by_a_later_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def check() -> None:
        raise ConfigError("taken over")

    def fail() -> None:
        with Saver(Store(tmp_path), keep_last=3, asynchronous=True, check=check) as saver:
            saver.save(1, content(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert "the last save failed too: taken over" in caplog.text


def test_a_removal_that_fails_is_told_of_and_fails_no_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Store, "prune", full)
    with Saver(Store(tmp_path), keep_last=1, asynchronous=True) as saver:
        saver.save(1, content(1))
        saver.finish()
    assert "old checkpoints can't be removed: No space left on device" in caplog.text


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_link_that_fails_is_no_failed_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, asynchronous: bool
) -> None:
    saved: list[int] = []
    with Saver(Store(tmp_path), keep_last=1, asynchronous=asynchronous, saved=saved.append) as saver:
        saver.save(1, content(1))
        saver.wait()
        with monkeypatch.context() as patch:
            patch.setattr(os, "symlink", full)
            saver.save(2, content(2), "best")
            saver.wait()
            assert saver.last_failed is None
            assert saver.finish() == f"{tmp_path}: the links can't be changed: No space left on device"
        assert "was not saved" not in caplog.text
        assert Store(tmp_path).steps() == [1, 2], "the link still leads to the first"
        saver.save(3, content(3))
        assert saver.finish() is None
    assert saved == [1, 2, 3]
    assert [(tmp_path / link).readlink().name for link in ("latest", "best")] == ["step_00000003", "step_00000002"]
    assert Store(tmp_path).steps() == [2, 3], "old ones are removed as before"


@pytest.mark.parametrize("name", ["latest", "best"])
@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.touch(),
        lambda path: path.symlink_to("nowhere"),
        lambda path: path.symlink_to("."),
        os.mkfifo,
        lambda path: path.mkdir(),
        lambda path: (path / "model.pt").mkdir(parents=True),
    ],
)
def test_what_is_in_the_place_of_a_link_is_replaced_or_named(
    tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    make(tmp_path / name)
    is_directory = (tmp_path / name).is_dir() and not (tmp_path / name).is_symlink()
    with Saver(Store(tmp_path), keep_last=1, asynchronous=False) as saver:
        saver.repair(best_step=None)
        saver.save(1, content(1), "best")
        missing = saver.finish()
    if is_directory:
        reason = f"{tmp_path / name}: is a directory in the place of a link; remove it"
        assert missing == f"{tmp_path}: the links can't be changed: {reason}"
    else:
        assert (missing, (tmp_path / name).readlink().name) == (None, "step_00000001")
    assert not list(tmp_path.glob(".*"))


def test_what_is_in_the_place_of_the_quarantine_is_named(tmp_path: Path) -> None:
    (tmp_path / "quarantine").touch()
    (tmp_path / "step_00000001").mkdir()  # damaged: it is empty
    with Saver(Store(tmp_path), keep_last=1, asynchronous=False) as saver:
        saver.save(1, content(1))
        assert str(saver.last_failed).endswith(f"was not saved: {tmp_path / 'quarantine'}: File exists")


def test_a_start_does_what_a_killed_one_has_left_undone(tmp_path: Path) -> None:
    with Saver(Store(tmp_path), keep_last=9, asynchronous=False) as saver:
        for step in (1, 2, 3):
            saver.save(step, content(step))
    (tmp_path / "latest").unlink()
    (tmp_path / ".step_00000004.4711").mkdir()
    Saver(Store(tmp_path), keep_last=1, asynchronous=False).repair(best_step=2)
    assert {path.name for path in tmp_path.iterdir()} == {"latest", "best", "step_00000002", "step_00000003"}


def full(*_: Any, **__: Any) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
