"""The user's data set in whole commands: the same at any number of ranks, resumed, evaluated and refused."""

import json
import shutil
from pathlib import Path

import pytest

from dist_train.monitoring import ledger
from tests.conftest import Python, Ranks

pytestmark = pytest.mark.slow

CODE = """
import random, time
from dataclasses import dataclass
import numpy as np, torch
from torch import nn
from torch.utils.data import Dataset

class Points(Dataset):
    classes = ("left", "right")
    def __init__(self, split, size=50, bad=None, hangs=None, shift=0.0, says=False):
        generator = torch.Generator().manual_seed(len(split))
        self.x = torch.randn(size, 4, generator=generator) + shift
        self.targets = (self.x[:, 0] > 0).long()
        self.bad, self.hangs, self.says = bad, hangs, says
    def __len__(self):
        return len(self.x)
    def __getitem__(self, number):
        if number == self.bad:
            raise LookupError("no such point")
        if number == self.hangs:
            time.sleep(600)
        if self.says and number == 7:
            print("reading seven")
        noise = 0.1 * torch.randn(4) + 0.1 * random.random() + 0.1 * np.random.rand()
        return {"x": self.x[number] + noise, "y": (noise, number)}, int(self.targets[number])

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 8), nn.Linear(4, 2)
        self.last = nn.Linear(10, 2)
    def forward(self, inputs):
        hidden = torch.cat([self.one(inputs["x"]).tanh(), self.two(inputs["y"][0])], 1)
        return self.last(hidden)
"""
CONFIG = """
data: {name: "own.py:Points", args: {}, global_batch: 12, workers: 1}
model: {name: "own.py:Net"}
optim: {name: sgd, lr: 0.1, momentum: 0.9}
train: {epochs: 2, micro_batch: 5}
checkpoint: {every_steps: 1, keep_last: 100}
log: {every_steps: 1, tensorboard: false}
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(CODE)
    (tmp_path / "config.yaml").write_text(CONFIG)
    return tmp_path


def command(directory: Path, name: str, *overrides: str) -> list[str]:
    return ["-m", "dist_train", str(directory / "config.yaml"), f"run.dir={directory / name}", *overrides]


def losses(run: Path) -> list[float]:
    return [ledger.hex_to_float(line["loss"]) or 0.0 for line in ledger.read(run / "ledger.jsonl")]


@pytest.mark.parametrize(
    "overrides", [(), ("data.sampling=balanced", "data.drop_last=true"), ("run.reproducible=bitwise",)]
)
def test_ranks_and_resumes_change_nothing(
    directory: Path, python: Python, on_ranks: Ranks, overrides: tuple[str, ...]
) -> None:
    alone = command(directory, "alone", *overrides)
    assert python(*alone).returncode == 0
    result = on_ranks(2, *command(directory, "two", *overrides))
    assert result.returncode == 0, result.stderr
    assert losses(directory / "two") == pytest.approx(losses(directory / "alone"), abs=1e-4)
    # A resume from a step inside an epoch, at its own number of ranks: the same bits.
    resumed = directory / "resumed"
    shutil.copytree(directory / "alone", resumed, symlinks=True)
    for step in (7, 8, 9, 10):
        shutil.rmtree(resumed / "checkpoints" / f"step_{step:08d}", ignore_errors=True)
    (resumed / "checkpoints" / "best").unlink(missing_ok=True)
    (resumed / "checkpoints" / "latest").unlink(missing_ok=True)
    assert python(*command(directory, "resumed", *overrides)).returncode == 0
    assert losses(resumed) == losses(directory / "alone")


def test_a_run_is_evaluated_and_verified(directory: Path, python: Python) -> None:
    assert python(*command(directory, "run", "data.validation=0.2")).returncode == 0
    for split, count in (("test", 50), ("validation", 10), ("train", 40)):
        result = python("-m", "dist_train.evaluate", str(directory / "run"), "--split", split, "--json")
        assert json.loads(result.stdout)["count"] == count, result.stderr
    (directory / "own.py").write_text(CODE.replace("class Points", "class Gone"))
    assert python("-m", "dist_train.training.verification", str(directory / "run")).returncode == 0


@pytest.mark.parametrize(("argument", "words"), [("size=40", "train samples: 50 "), ("shift=1.0", "train data")])
def test_a_resume_on_other_data_is_refused_or_accepted(
    directory: Path, python: Python, argument: str, words: str
) -> None:
    assert python(*command(directory, "run", "train.epochs=1")).returncode == 0
    more = command(directory, "run", f"data.args.{argument}")
    refused = python(*more)
    assert refused.returncode == 2
    assert words in refused.stderr
    assert "data.accept_changes=true" in refused.stderr
    accepted = python(*more, "data.accept_changes=true")
    assert accepted.returncode == 0, accepted.stderr
    assert "continues on other data" in accepted.stdout + accepted.stderr


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("workers", [0, 1])
def test_an_exception_is_shown_as_the_users(
    directory: Path, python: Python, on_ranks: Ranks, ranks: int, workers: int
) -> None:
    arguments = command(directory, "run", "data.args.bad=23", f"data.workers={workers}")
    result = on_ranks(ranks, *arguments) if ranks > 1 else python(*arguments)
    assert result.returncode == 1
    shown = result.stderr + result.stdout
    assert "split train: item 23, read by rank" in shown
    assert "LookupError: no such point" in shown
    assert shown.count("own.py") > 0
    assert "data/own/items.py" not in shown
    if workers:
        assert "worker 0" in shown


def test_an_item_that_hangs_is_named(directory: Path, python: Python) -> None:
    for workers in (0, 1):
        arguments = ("data.args.hangs=23", f"data.workers={workers}", "distributed.stall_minutes=0.05")
        result = python(*command(directory, f"run{workers}", *arguments))
        assert result.returncode == 1
        assert "stalled" in result.stderr
        assert 'own.py", line' in result.stderr
        assert "in __getitem__" in result.stderr


def test_what_a_worker_prints_is_seen(directory: Path, python: Python) -> None:
    result = python(*command(directory, "run", "data.args.says=true"))
    assert result.returncode == 0
    assert "reading seven" in result.stdout
