"""`dist-train diff` on ledgers that nothing has trained."""

import json
from pathlib import Path

import pytest

from dist_train.monitoring.ledger import float_to_hex
from tests.unit.launch.command import run_command


def leave_ledger(run: Path, steps: int = 3, loss: float = 1.0) -> Path:
    run.mkdir()
    line = {"samples": "0" * 16, "loss": float_to_hex(loss), "grad_norm": float_to_hex(0.5), "lr": 0.1}
    texts = [json.dumps({"step": step, **line}) + "\n" for step in range(1, steps + 1)]
    (run / "ledger.jsonl").write_text("".join(texts))
    return run


def test_diff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, same = leave_ledger(tmp_path / "a"), leave_ledger(tmp_path / "b")
    other, short = leave_ledger(tmp_path / "c", loss=2.0), leave_ledger(tmp_path / "d", steps=2)
    assert run_command(capsys, "diff", first, same) == (0, f"{first} and {same} agree in all 3 steps\n")
    code, said = run_command(capsys, "diff", first, other)
    assert (code, "part at step 1, in forward: loss 1 (" in said) == (1, True)
    code, said = run_command(capsys, "diff", first, short)
    assert (code, "agree in 2 steps; step 3: only the first has this step" in said) == (1, True)


def test_diff_of_no_steps_is_no_agreement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, empty = leave_ledger(tmp_path / "a"), leave_ledger(tmp_path / "b", steps=0)
    code, said = run_command(capsys, "diff", empty, empty)
    assert (code, "has no steps yet" in said) == (2, True)
    code, said = run_command(capsys, "diff", first, tmp_path / "none")
    assert (code, "can't be read: No such file" in said) == (2, True)
