"""A run made by the version before the packages is resumed and evaluated: tests/fixtures/run_before_packages."""

import json
import shutil
from pathlib import Path

import pytest

from dist_train.monitoring.metrics import read_lines
from tests.conftest import ROOT, Python

pytestmark = pytest.mark.slow

# The settings of the fixture under their new names.
SETTINGS = """
data: {name: digits, root: data, global_batch: 64, loader: in_memory}
model: {name: mnist_cnn}
optim: {name: adam, lr: 0.001}
train: {max_steps: 10, compile: off, ema_decay: 0.9}
checkpoint: {every_steps: 5, keep_last: 1}
distributed: {binding: auto, threads: 1, backend: gloo}
log: {every_steps: 5, weights_every_steps: 5, tensorboard: false}
"""


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT / "tests/fixtures/run_before_packages", tmp_path / "run", symlinks=True))


@pytest.mark.parametrize("source", ["its own config.yaml", "a file with the new names"])
def test_it_resumes(old_run: Path, python: Python, source: str) -> None:
    config = old_run / "config.yaml"
    if source == "a file with the new names":
        config = old_run.parent / "run.yaml"
        config.write_text(SETTINGS)
    given = [f"run.dir={old_run}", f"data.cache={old_run.parent / 'cache'}", "train.max_steps=20"]
    done = python("-m", "dist_train", str(config), *given)
    assert done.returncode == 0, done.stdout + done.stderr
    output = done.stdout + done.stderr
    changed = [line.partition(": ")[2].split(": ")[0] for line in output.splitlines() if "setting changed" in line]
    assert changed == ["data.cache", "train.max_steps"]
    assert "at step 10 of 20" in output
    assert output.count("did not store its data: they are not compared") == 1
    assert output.count("the rest of this epoch may repeat or miss samples") == 1
    trained = [line["step"] for line in read_lines(old_run / "metrics.jsonl") if line["kind"] == "train"]
    assert trained == [5, 10, 15, 20]
    status = json.loads((old_run / "status.json").read_text())
    assert (status["state"], status["step"], status["started_step"]) == ("done", 20, 10)
    written = (old_run / "config.yaml").read_text()
    assert "every_steps: 5" in written
    assert "every: 5" not in written


def test_it_is_evaluated(old_run: Path, python: Python) -> None:
    done = python("-m", "dist_train.evaluate", str(old_run), f"data.cache={old_run.parent / 'cache'}", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    before = [line for line in read_lines(old_run / "metrics.jsonl") if line["kind"] == "eval"][-1]
    now = json.loads(done.stdout)
    assert (now["correct"], now["count"]) == (before["correct"], before["count"])
    assert now["loss"] == pytest.approx(before["loss"], rel=1e-5)
