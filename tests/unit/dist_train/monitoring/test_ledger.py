"""The ledger: its lines, and what a resume removes."""

import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_train.errors import LedgerError
from dist_train.monitoring.ledger import (
    Ledger,
    find_newest_step,
    float_to_hex,
    hex_to_float,
    read,
)
from dist_train.system import append_file

Lines = list[dict[str, Any]]


def lines(steps: int = 5, weights_every_steps: int = 2, **changes: dict[int, Any]) -> Lines:
    """A ledger, with some fields changed at some steps: `loss={3: 9.0}`."""
    ledger: Lines = []
    for step in range(1, steps + 1):
        line = {
            "step": step,
            "samples": f"{step:016x}",
            "loss": float_to_hex(2 / step),
            "grad_norm": float_to_hex(0.5),
            "lr": 0.1,
        }
        if step % weights_every_steps == 0:
            line["weights"] = "ab" * 32
        ledger.append({**line, **{field: at[step] for field, at in changes.items() if step in at}})
    return ledger


def test_a_line_holds_the_bits_of_a_step(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path, 0)
    samples = torch.tensor([5, 3, 4])
    ledger.add(1, samples.numpy().data, 0.1, None, 1e-3, None)
    weights: Future[str] = Future()
    weights.set_result("cd" * 32)
    ledger.add(2, samples.flip(0).numpy().data, 0.25, 2.0, 1e-3, weights)
    ledger.close()
    first, second = (json.loads(text) for text in path.read_text().splitlines())
    assert first["samples"] != second["samples"], "the order counts"
    assert (first["loss"], first["grad_norm"], first["lr"]) == ("3fb999999999999a", None, 0.001)
    assert (hex_to_float(second["loss"]), hex_to_float(second["grad_norm"]), second["weights"]) == (
        0.25,
        2.0,
        "cd" * 32,
    )
    assert "weights" not in first


def test_a_resume_removes_later_and_incomplete_lines(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines(5)) + '{"step": 6, "samp')
    ledger = Ledger(path, 3)
    ledger.add(4, torch.tensor([1]).numpy().data, 1.0, 1.0, 0.1, None)
    ledger.close()
    assert [line["step"] for line in read(path)] == [1, 2, 3, 4]
    assert len(path.read_text().splitlines()) == 4


@pytest.mark.parametrize("step", [0, 3, 5, 9])
@pytest.mark.parametrize("rest", ["", '{"step": 6, "samp', '{"step": 60}\nnoise\n\n', "[" * 9999])
def test_a_resume_keeps_what_comes_before_it(tmp_path: Path, step: int, rest: str) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines(5)) + rest)
    ledger = Ledger(path, step)
    assert [line["step"] for line in read(path)] == list(range(1, min(step, 5) + 1))
    assert (ledger.newest_step, ledger.damaged, ledger.missing) == (min(step, 5), 0, None)
    ledger.close()


def test_a_damaged_line_before_a_resume_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines(5, weights={2: None})))
    ledger = Ledger(path, 4)
    assert (ledger.newest_step, ledger.damaged) == (4, 1)
    ledger.close()


@pytest.mark.parametrize(
    "damaged", ['{"step": 5, "loss": {}}', '{"step": 5, "loss": "x', '{"step": 0}', "[" * 5000, "noise"]
)
def test_a_resume_removes_no_damaged_line_of_its_own_step(tmp_path: Path, damaged: str) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text(before := "".join(json.dumps(line) + "\n" for line in lines(4)) + damaged + "\n")
    ledger = Ledger(path, 5)
    ledger.close()
    assert (ledger.newest_step, ledger.damaged, path.read_text()) == (4, 1, before)


def test_a_resume_reads_and_writes_only_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes are counted, not seconds."""
    path, positions = tmp_path / "ledger.jsonl", []
    real = append_file._scan_backward

    def scanned(file: Any) -> Any:
        for offset, line in real(file):
            positions.append(offset)
            yield offset, line

    monkeypatch.setattr(append_file, "_scan_backward", scanned)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines(20_000)))
    size = path.stat().st_size
    Ledger(path, 19_990).close()
    assert min(positions) > size - 2**16
    assert find_newest_step(path) == 19_990


def test_lines_are_written_in_blocks_and_by_a_flush(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path, 0)
    for step in range(1, 70):
        ledger.add(step, torch.tensor([step]).numpy().data, 1.0, 1.0, 0.1, None)
    assert len(read(path)) == 64
    ledger.flush()
    assert len(read(path)) == 69
    ledger.close()


def test_a_block_waits_for_the_hash_of_the_weights_and_the_training_does_not(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger, weights = Ledger(path, 0), Future[str]()
    for step in range(1, 70):
        ledger.add(step, torch.tensor([step]).numpy().data, 1.0, 1.0, 0.1, weights if step == 3 else None)
    assert read(path) == []
    weights.set_result("cd" * 32)
    ledger.add(70, torch.tensor([70]).numpy().data, 1.0, 1.0, 0.1, None)
    ledger.close()
    assert [line["step"] for line in read(path)] == list(range(1, 71))
    assert [line["step"] for line in read(path) if "weights" in line] == [3]


def test_a_run_without_a_ledger_is_named(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"log\.ledger"):
        read(tmp_path / "ledger.jsonl")


@pytest.mark.parametrize("change", [{"loss": "zz"}, {"loss": 5}, {"grad_norm": [1]}, {"lr": "0.1"}, {"step": 1.5}])
def test_a_damaged_line_is_left_out(tmp_path: Path, change: dict[str, Any]) -> None:
    first, second = lines(2)
    (tmp_path / "ledger.jsonl").write_text(json.dumps({**first, **change}) + "\n" + json.dumps(second) + "\n")
    assert read(tmp_path / "ledger.jsonl") == [second]
