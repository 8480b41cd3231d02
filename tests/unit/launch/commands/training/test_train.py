"""`dist-train train` becomes the process that trains."""

import os
import signal
import sys
from pathlib import Path

import pytest

from dist_train.system.stop_signals import SIGNALS
from launch import cli

CONFIG = """
data: {name: synthetic, num_train: 32, num_test: 8, global_batch: 16}
model: {name: mnist_cnn}
optim: {name: sgd, lr: 0.05}
train: {max_steps: 2}
aliases: {--rate: optim.lr}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(CONFIG)
    return path


class _ReplacedError(Exception):
    """A real execve does not come back."""


def test_a_signal_waits_for_what_is_started(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the handlers are installed it would end the process with another code than 75."""
    started: list[list[str]] = []
    blocked: set[int] = set()

    def execve(program: str, command: list[str], environ: dict[str, str]) -> None:  # noqa: ARG001
        started.append(command)
        blocked.update(signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS))
        raise _ReplacedError

    monkeypatch.setattr(os, "execve", execve)
    cli.main(["train", str(config), "--nproc", "1", "--rate", "0.5", "run.seed=1"])
    assert started == [[sys.executable, "-m", "dist_train", str(config), "run.seed=1", "--rate=0.5"]]
    assert blocked >= set(SIGNALS)
