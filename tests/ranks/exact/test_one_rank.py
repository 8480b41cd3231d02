"""One rank trains the same bits as a process and under the agent."""

import signal
from pathlib import Path

import pytest

from dist_train.monitoring.ledger import read
from dist_train.monitoring.ledger_comparison import Comparison, compare
from tests.conftest import Python

CONFIG = """
data: {name: synthetic, num_train: 32, num_test: 8, global_batch: 16}
model: {name: mnist_cnn}
optim: {name: sgd, lr: 0.05}
train: {max_steps: 2}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(CONFIG)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGSEGV, marks=pytest.mark.long)])
def test_the_next_start_says_how_a_process_alone_was_lost(
    tmp_path: Path, config: Path, interpreter: Python, number: int
) -> None:
    """It leaves no screen, for there is no other process of the run."""
    command = ("-m", "dist_train", str(config), f"run.dir={tmp_path / 'run'}")
    dies = f"import importlib, os, sys, dist_train.__main__ as m; t = importlib.import_module('dist_train.train'); t.train_step = lambda *_, **__: os.kill(os.getpid(), {number:d}); m.start(sys.argv[1:])"  # noqa: E501
    assert interpreter("-c", dies, *command[2:], timeout=60).returncode == -number
    told = interpreter("-m", "launch", "postmortem", str(tmp_path / "run"))
    assert (told.returncode, "as after SIGKILL" in told.stdout) == (1, True)
    said = "the start before was lost: rank 0(1) on host"
    assert said in interpreter(*command, timeout=60).stdout
    assert said not in interpreter(*command, timeout=60).stdout


@pytest.mark.slow
def test_one_rank_of_the_agent_trains_the_same_bits_as_a_process(tmp_path: Path, config: Path, python: Python) -> None:
    """So that a run may continue either way."""
    settings = ("train.max_steps=4", "train.max_grad_norm=0.1", "log.weights_every_steps=1", "distributed.backend=gloo")
    for name, options in (("process", []), ("agent", ["--max-restarts", "1"])):
        command = ("-m", "launch", "train", str(config), *settings, f"run.dir={tmp_path / name}", "--nproc", "1")
        done = python(*command, *options)
        assert done.returncode == 0, done.stderr
    process, agent = (read(tmp_path / name / "ledger.jsonl") for name in ("process", "agent"))
    assert compare(process, agent) == Comparison(4, None)
