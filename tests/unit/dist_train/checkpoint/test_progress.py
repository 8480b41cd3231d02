"""A run whose checkpoints are gone is not started over: what its files say is compared, in all combinations."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dist_train.checkpoint.progress import check_nothing_is_lost, warn_of_lost_checkpoint
from dist_train.errors import CheckpointError
from dist_train.monitoring.ledger import float_to_hex
from dist_train.run_dir import RunDir

TRAINED = {"kind": "train", "step": 5, "epoch": 1, "loss": 1.0, "lr": 0.1, "samples_per_second": 9.0, "time": 1.0}
RECORDED = {"step": 5, "samples": "0" * 16, "loss": float_to_hex(1.0), "grad_norm": None, "lr": 0.1}


def text(content: Any) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps(content) + "\n")


# Each: how the file comes to be, whether it says that the run has saved (None: it does not know), and its step.
STATUSES: dict[str, tuple[Callable[[Path], object], bool | None, int]] = {
    "missing": (lambda _: None, None, 0),
    "garbage": (lambda path: path.write_bytes(b"\xff{"), None, 0),
    "a directory": (Path.mkdir, None, 0),
    "a pipe": (os.mkfifo, None, 0),
    "deep": (lambda path: path.write_text("[" * 100_000), None, 0),
    "of a job": (text({"state": "preempted", "step": 0, "early": True}), None, 0),
    "before a checkpoint": (text({"state": "failed", "step": 5, "checkpoint": None}), False, 5),
    "after a checkpoint": (text({"state": "running", "step": 5, "checkpoint": 4}), True, 5),
    "done": (text({"state": "done", "step": 5, "checkpoint": 5}), True, 5),
    "of an earlier version": (text({"state": "done", "step": 5}), None, 5),
    "with other types": (text({"state": [1], "step": "5", "checkpoint": {}}), None, 0),
}
LINES: dict[str, tuple[Callable[[Path], object], int]] = {
    "missing": (lambda _: None, 0),
    "empty": (Path.touch, 0),
    "garbage": (lambda path: path.write_bytes(b"\xff\n" * 9), 0),
    "a directory": (Path.mkdir, 0),
    "a pipe": (os.mkfifo, 0),
    "trained": (text({**TRAINED, **RECORDED, "loss": 1.0}), 5),
}


@pytest.mark.parametrize("status", STATUSES)
def test_every_combination_of_files(tmp_path: Path, status: str) -> None:
    make_status, has_saved, step = STATUSES[status]
    refused = 0
    for metrics, (make_metrics, metrics_step) in LINES.items():
        for ledger, (make_ledger, ledger_step) in LINES.items():
            run = RunDir(tmp_path / f"{metrics}, {ledger}")
            run.path.mkdir()
            make_status(run.status)
            (text(TRAINED) if metrics_step else make_metrics)(run.metrics)
            (text(RECORDED) if ledger_step else make_ledger)(run.ledger)
            before = sorted(run.path.iterdir())
            if has_saved is not False and max(step, metrics_step, ledger_step):
                with pytest.raises(CheckpointError, match=r"run\.resume=never") as raised:
                    check_nothing_is_lost(run)
                for path, reached in ((run.metrics, metrics_step), (run.ledger, ledger_step)):
                    assert f"{path.name} {'ends at step 5' if reached else ''}" in str(raised.value)
                refused += 1
            else:
                check_nothing_is_lost(run)
            assert sorted(run.path.iterdir()) == before
    assert refused in (0, 11, 36)


@pytest.mark.parametrize("kind", STATUSES)
def test_a_later_checkpoint_that_is_gone_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    make, _, _ = STATUSES[kind]
    make(tmp_path / "status.json")
    saved = {"after a checkpoint": 4, "done": 5}.get(kind)
    warn_of_lost_checkpoint(RunDir(tmp_path), saved or 3)
    assert caplog.text == ""
    warn_of_lost_checkpoint(RunDir(tmp_path), 3)
    assert (f"the checkpoint of step {saved} was saved, and the newest that loads is of step 3" in caplog.text) == (
        saved is not None
    )
