"""`dist-train ckpt` on written checkpoints, without training."""

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


def test_ckpt_lists_verifies_and_prunes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = leave_checkpoints(tmp_path, 1, 2, 3)
    code, output = run_command(capsys, "ckpt", "ls", tmp_path)
    assert (code, len(output.splitlines()), "latest" in output.splitlines()[2]) == (0, 3, True)
    assert run_command(capsys, "ckpt", "verify", tmp_path)[0] == 0
    (store.path(3) / "model.pt").write_bytes(b"wEights")
    code, output = run_command(capsys, "ckpt", "verify", tmp_path)
    assert (code, "is damaged, its SHA-256" in output) == (1, True)
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
