"""Real ranks that fail, are killed or hang: one verdict, on the right rank."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dist_train.diagnostics.failure import read_failures
from dist_train.diagnostics.verdict import read_verdict
from tests.conftest import ROOT


def misbehave(run: Path, fault: str, rank: int, *overrides: str) -> tuple[list[str], dict[str, str]]:
    """The command and the variables of a training in which a rank misbehaves."""
    command = ["tests/programs/misbehaves.py", "configs/digits.yaml", f"run.dir={run}", "run.name=digits"]
    return (
        [*command, "train.epochs=1", "distributed.backend=gloo", "distributed.threads=1", *overrides],
        {"DIST_TRAIN_TEST_FAULT": fault, "DIST_TRAIN_TEST_RANK": str(rank)},
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "fault", "cause", "said"),
    [
        ("torchrun", "raise", "exception", "ValueError: bad thing"),
        ("torchrun", "kill", "killed", "without an error message"),
        ("on_ranks", "sleep", "stalled", "no progress"),
        ("on_ranks", "loader", "loader", "DataLoader worker"),
    ],
)
def test_a_run_ends_with_one_verdict(
    tmp_path: Path, request: pytest.FixtureRequest, launcher: str, fault: str, cause: str, said: str
) -> None:
    patience = 0.05 if cause == "stalled" else 5  # on a busy machine a start of workers takes seconds
    settings = (f"distributed.stall_minutes={patience}", "data.loader=workers", "data.workers=1")
    command, variables = misbehave(tmp_path / "digits", fault, 1, *settings)
    done = request.getfixturevalue(launcher)(2, *command, env=variables)
    assert done.returncode == 1
    assert done.stderr.count("---- digits: the run failed ----") == 1
    assert done.stderr.count("Traceback") == (launcher == "torchrun")  # its own
    found = read_verdict(tmp_path / "digits")
    assert found is not None
    assert (found.rank, found.world_size, found.cause, found.victims) == (1, 2, cause, [0])
    assert (found.phase, found.step) == ("forward", 3)
    assert said in found.error
    assert json.loads((tmp_path / "digits" / "status.json").read_text())["state"] == "failed"


@pytest.mark.slow
@pytest.mark.parametrize(("setting", "words"), [("auto", "rank 1(2), pid "), ("off", "peer")])
def test_a_lost_peer_is_distinguished_from_a_fault(tmp_path: Path, setting: str, words: str) -> None:
    """No launcher ends the rank that is left: it has noticed in shared memory, or has Gloo's own words."""
    command, variables = misbehave(tmp_path / "digits", "kill", 1, f"distributed.shared_memory={setting}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **variables, **shared, "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    try:
        ranks[1].communicate(timeout=60)
        _, said = ranks[0].communicate(timeout=60)
    finally:
        for process in ranks:
            process.kill()
            process.communicate()
    assert [rank.returncode for rank in ranks] == [1, -signal.SIGKILL]
    assert "cause          killed" in said
    assert "Traceback" not in said
    left = read_failures(tmp_path / "digits" / "diagnostics", 1)
    assert left[0].kind == "victim"
    assert words in left[0].error
