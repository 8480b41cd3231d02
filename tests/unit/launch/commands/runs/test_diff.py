"""`dist-train diff` on written ledgers, without training."""

from pathlib import Path

import pytest

from tests.unit.launch.command import run_command
from tests.unit.launch.run_files import leave_ledger


def test_diff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, same = leave_ledger(tmp_path / "a"), leave_ledger(tmp_path / "b")
    other, short = leave_ledger(tmp_path / "c", loss=2.0), leave_ledger(tmp_path / "d", steps=2)
    assert run_command(capsys, "diff", first, same) == (0, f"{first} and {same} agree in all 3 steps\n")
    code, output = run_command(capsys, "diff", first, other)
    assert (code, "differ at step 1, in forward: loss 1 (" in output) == (1, True)
    code, output = run_command(capsys, "diff", first, short)
    assert (code, "agree in 2 steps; step 3: only the first has this step" in output) == (1, True)


def test_diff_of_no_steps_is_no_agreement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, empty = leave_ledger(tmp_path / "a"), leave_ledger(tmp_path / "b", steps=0)
    code, output = run_command(capsys, "diff", empty, empty)
    assert (code, "has no steps yet" in output) == (2, True)
    code, output = run_command(capsys, "diff", first, tmp_path / "none")
    assert (code, "can't be read: No such file" in output) == (2, True)


def test_settings_that_differ_come_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = leave_ledger(tmp_path / "a", lr=0.1), leave_ledger(tmp_path / "b", lr=0.2)
    for run, lr in ((first, 0.1), (second, 0.2)):
        (run / "config.yaml").write_text(
            f"run: {{name: {run.name}, dir: {run.name}}}\noptim: {{name: sgd, lr: {lr}}}\n"
        )
    code, output = run_command(capsys, "diff", first, second)
    lines = output.splitlines()
    assert code == 1
    assert lines[0] == f"{first} and {second} have other settings: optim.lr: 0.1 and 0.2"
    assert "differ at step 1, in update: lr" in lines[1]


@pytest.mark.parametrize(
    ("device", "setting", "expected"),
    [
        ("NVIDIA H100", "deterministic: false", True),
        ("NVIDIA H100", "deterministic: true", False),
        ("NVIDIA H100", "reproducible: bitwise", False),
        ("cpu", "deterministic: false", False),
    ],
)
def test_what_to_expect_of_bits_on_a_gpu_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], device: str, setting: str, expected: bool
) -> None:
    first, second = leave_ledger(tmp_path / "a"), leave_ledger(tmp_path / "b", loss=2.0)
    for run in (first, second):
        (run / "config.yaml").write_text(f"run: {{name: x, dir: x, {setting}}}\n")
        (run / "env.json").write_text(f'{{"device": "{device}"}}')
    code, output = run_command(capsys, "diff", first, second)
    assert (code, "on a GPU without run.deterministic=true" in output) == (1, expected)
    assert "on a GPU" not in run_command(capsys, "diff", first, first)[1], "they agree"
