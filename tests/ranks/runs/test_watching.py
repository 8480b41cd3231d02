"""A real run is watched and stopped by `dist-train status`, `logs` and `cancel`."""

import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Python

SMALL = """
data: {name: synthetic, num_train: 4096, num_test: 40, global_batch: 16}
model: {name: mnist_cnn}
optim: {name: sgd, lr: 0.01}
train: {epochs: 1000}
log: {every_steps: 2, tensorboard: false}
distributed: {backend: gloo}
"""


@pytest.mark.slow
def test_a_run_is_watched_and_stopped(tmp_path: Path, python: Python) -> None:
    (tmp_path / "small.yaml").write_text(SMALL)
    train = ("train", "small.yaml", "--nproc", "2", "run.dir=runs/a")
    done: dict[str, subprocess.CompletedProcess[str]] = {}

    def start(name: str, *arguments: str) -> threading.Thread:
        def work() -> None:
            done[name] = python("-m", "launch", *arguments, cwd=tmp_path)

        thread = threading.Thread(target=work)
        thread.start()
        return thread

    def status() -> dict[str, Any]:
        shown = python("-m", "launch", "status", "runs/a", "--json", cwd=tmp_path)
        return json.loads(shown.stdout) if shown.returncode == 0 else {}

    training = start("train", *train)
    try:
        wait_until(lambda: status().get("step", 0) > 2)
        following = start("logs", "logs", "runs/a", "-f")
        now = status()
        assert (now["state"], now["total_steps"], now["resumable"]) == ("running", 256_000, True)
        assert now["seconds_left"] > 0
        busy = python("-m", "launch", "status", cwd=tmp_path)
        assert "runs/a" in busy.stdout
    finally:
        cancelled = python("-m", "launch", "cancel", "runs/a", "--wait", cwd=tmp_path)
        training.join()
    following.join()
    assert cancelled.returncode == 0, cancelled.stderr
    assert "saves and exits" in cancelled.stdout
    assert "Resume it later: dist-train train small.yaml run.dir=runs/a --nproc 2" in cancelled.stdout
    assert "runs/a: preempted at step" in cancelled.stdout
    assert done["train"].returncode == 75, done["train"].stderr
    assert done["logs"].returncode == 0
    assert "samples/s" in done["logs"].stdout
    assert "rank 0(2) leaves: stopped by SIGTERM" in done["logs"].stdout
    after = status()
    assert (after["state"], after["go_on"]) == ("preempted", "dist-train train small.yaml run.dir=runs/a --nproc 2")
    other = python("-m", "launch", "logs", "runs/a", "--rank", "1", cwd=tmp_path)
    assert "rank 1(2) starts at step 0 on cpu" in other.stdout
    assert "rank 1(2) leaves: stopped by" in other.stdout


def wait_until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
