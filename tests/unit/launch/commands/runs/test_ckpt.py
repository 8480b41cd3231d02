"""`dist-train ckpt` on written checkpoints, without training."""

import subprocess
import sys
from pathlib import Path

import pytest

from dist_train.checkpoint.store import Store
from tests.unit.launch.command import run_command


def leave_checkpoints(run: Path, *steps: int) -> Store:
    store = Store(run / "checkpoints")
    for step in steps:
        store.save(step, {"model.pt": b"weights", "training.pt": b"state"}, "ab" * 32)
        store.point({"latest": step})
    return store


def test_ckpt_lists_and_prunes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = leave_checkpoints(tmp_path, 1, 2, 3)
    code, output = run_command(capsys, "ckpt", "ls", tmp_path)
    assert (code, len(output.splitlines()), "latest" in output.splitlines()[2]) == (0, 3, True)
    (store.path(3) / "model.pt").write_bytes(b"wEights")
    code, output = run_command(capsys, "ckpt", "prune", tmp_path)
    assert (code, "kept 2; removed 1" in output) == (0, True)
    assert store.steps() == [2]
    assert (store.directory / "latest").readlink() == Path("step_00000002")


def test_prune_keeps_what_is_left_where_nothing_is_undamaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = leave_checkpoints(tmp_path, 1, 2)
    for step in (1, 2):
        (store.path(step) / "manifest.json").write_text("[]")
    code, output = run_command(capsys, "ckpt", "prune", tmp_path)
    assert (code, "all checkpoints are damaged; nothing was removed" in output) == (2, True)
    assert store.steps() == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ls"], "has no checkpoints"),
        (["ls", "--keep-last", "2"], "--keep-last is an option of prune"),
        (["prune", "--keep-last", "0"], "is '0'; it must be a number from 1 up"),
    ],
)
def test_ckpt_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    action, *more = arguments
    code, output = run_command(capsys, "ckpt", action, tmp_path, *more)
    assert (code, message in output) == (2, True)


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (1, 1), (2, 2), (-11, 1)])
def test_verify_ends_as_the_process_that_builds_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int, expected: int
) -> None:
    started: list[list[str]] = []

    def call(command: list[str], env: dict[str, str]) -> int:  # noqa: ARG001
        started.append(command)
        return code

    monkeypatch.setattr(subprocess, "call", call)
    assert run_command(capsys, "ckpt", "verify", tmp_path)[0] == expected
    assert started == [[sys.executable, "-m", "dist_train.training.verification", "--", str(tmp_path)]]
