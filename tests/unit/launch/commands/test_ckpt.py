"""`dist-train diff` and `dist-train ckpt` on what lies in a directory; nothing is trained."""

import json
from pathlib import Path

import pytest

from dist_train.checkpoint.store import Store
from dist_train.monitoring.ledger import float_to_hex
from launch import cli


def leave_ledger(run: Path, steps: int = 3, loss: float = 1.0) -> Path:
    run.mkdir()
    line = {"samples": "0" * 16, "loss": float_to_hex(loss), "grad_norm": float_to_hex(0.5), "lr": 0.1}
    texts = [json.dumps({"step": step, **line}) + "\n" for step in range(1, steps + 1)]
    (run / "ledger.jsonl").write_text("".join(texts))
    return run


def leave_checkpoints(run: Path, *steps: int) -> Store:
    store = Store(run / "checkpoints")
    for step in steps:
        store.save(step, {"model.pt": b"weights", "training.pt": b"state"}, "ab" * 32)
    return store


def asked(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = cli.main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return code, said.out + said.err


def test_diff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, same = leave_ledger(tmp_path / "a"), leave_ledger(tmp_path / "b")
    other, short = leave_ledger(tmp_path / "c", loss=2.0), leave_ledger(tmp_path / "d", steps=2)
    assert asked(capsys, "diff", first, same) == (0, f"{first} and {same} agree in all 3 steps\n")
    code, said = asked(capsys, "diff", first, other)
    assert (code, "part at step 1, in forward: loss 1 (" in said) == (1, True)
    code, said = asked(capsys, "diff", first, short)
    assert (code, "agree in 2 steps; step 3: only the first has this step" in said) == (1, True)


def test_diff_of_no_steps_is_no_agreement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, empty = leave_ledger(tmp_path / "a"), leave_ledger(tmp_path / "b", steps=0)
    code, said = asked(capsys, "diff", empty, empty)
    assert (code, "has no steps yet" in said) == (2, True)
    code, said = asked(capsys, "diff", first, tmp_path / "none")
    assert (code, "can't be read: No such file" in said) == (2, True)


def test_ckpt_lists_verifies_and_prunes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = leave_checkpoints(tmp_path, 1, 2, 3)
    code, said = asked(capsys, "ckpt", "ls", tmp_path)
    assert (code, len(said.splitlines()), "latest" in said.splitlines()[2]) == (0, 3, True)
    assert asked(capsys, "ckpt", "verify", tmp_path)[0] == 0
    (store.place(3) / "model.pt").write_bytes(b"wEights")
    code, said = asked(capsys, "ckpt", "verify", tmp_path)
    assert (code, "is damaged, its SHA-256" in said) == (1, True)
    code, said = asked(capsys, "ckpt", "prune", tmp_path)
    assert (code, "kept 2; removed 1" in said) == (0, True)
    assert store.steps() == [2]
    assert (store.directory / "latest").readlink() == Path("step_00000002")


def test_prune_keeps_what_is_left_where_nothing_is_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = leave_checkpoints(tmp_path, 1, 2)
    for step in (1, 2):
        (store.place(step) / "manifest.json").write_text("[]")
    code, said = asked(capsys, "ckpt", "prune", tmp_path)
    assert (code, "none of the checkpoints is whole, and nothing was removed" in said) == (2, True)
    assert store.steps() == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ls"], "no checkpoint there"),
        (["ls", "--keep-last", "2"], "--keep-last belongs to prune"),
        (["prune", "--keep-last", "0"], "is '0'; it must be a number from 1 up"),
    ],
)
def test_ckpt_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    action, *more = arguments
    code, said = asked(capsys, "ckpt", action, tmp_path, *more)
    assert (code, message in said) == (2, True)
