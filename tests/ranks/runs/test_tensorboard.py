"""A TensorBoard server shows curves, pictures, settings and the graph of a run that was continued, each step once."""

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import torch

from tests.conftest import Python

pytestmark = pytest.mark.slow

SETTINGS = """
data: {name: synthetic, shape: [1, 12, 12], num_classes: 3, num_train: 60, num_test: 30, global_batch: 20}
model: {name: "nets.py:Net"}
optim: {name: adam, lr: 0.003}
log: {every_steps: 1}
"""
NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten())
        self.head = nn.Linear(800, 3)

    def forward(self, x):
        return self.head(self.body(x)) + 0.01 * torch.rand(3)
"""


def train(python: Python, folder: Path, name: str, *overrides: str) -> None:
    (folder / "run.yaml").write_text(SETTINGS)
    (folder / "nets.py").write_text(NET)
    done = python("-m", "dist_train", str(folder / "run.yaml"), f"run.dir={folder / name}", *overrides)
    assert done.returncode == 0, done.stderr


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(run / f"checkpoints/step_{step:08d}/model.pt", weights_only=True)
    return found


@contextmanager
def serve(logs: Path) -> Iterator[str]:
    """A server for a directory; gives its address."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logs), "--port", "0", "--host", "127.0.0.1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as server:
        assert server.stderr
        try:
            yield next(found[1] for line in server.stderr if (found := re.search(r" at (http://\S+/) ", line)))
        finally:
            server.terminate()
            server.stderr.read()


def ask(address: str, page: str, post: Any = None, **query: Any) -> bytes:
    body = None if post is None else json.dumps(post).encode()
    request = urllib.request.Request(f"{address}data/{page}?{urlencode(query)}", body)  # noqa: S310
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        content: bytes = answer.read()
    return content


def wait_for(address: str, page: str, **query: Any) -> Any:
    """What a page says once the server has read the files."""
    ends = time.monotonic() + 60
    while not (found := json.loads(ask(address, page, **query))) and time.monotonic() < ends:
        time.sleep(0.2)
    return found


def test_a_server_shows_a_continued_run_whose_weights_are_those_of_one_without_curves(
    tmp_path: Path, python: Python
) -> None:
    train(python, tmp_path, "run", "train.epochs=2")
    train(python, tmp_path, "run", "train.epochs=4")
    train(python, tmp_path, "run", "train.epochs=4")  # nothing is left to do
    train(python, tmp_path, "bare", "train.epochs=4", "log.tensorboard=false")
    found, bare = weights(tmp_path / "run", 12), weights(tmp_path / "bare", 12)
    assert all(torch.equal(value, bare[name]) for name, value in found.items())

    with serve(tmp_path / "run") as address:
        plugin = "plugin/"
        for tag, steps in (("train/loss", list(range(1, 13))), ("test/accuracy", [3, 6, 9, 12])):
            points = wait_for(address, f"{plugin}scalars/scalars", run="tb", tag=tag)
            assert [step for _, step, _ in points] == steps
        for tag in ("test/samples", "test/confusion_matrix"):
            shown = wait_for(address, f"{plugin}images/images", run="tb", tag=tag, sample=0)
            assert [picture["step"] for picture in shown] == [3, 6, 9, 12]
            key = shown[-1]["query"].partition("blob_key=")[2]
            assert ask(address, f"{plugin}images/individualImage", blob_key=key).startswith(b"\x89PNG")
        experiment = json.loads(ask(address, f"{plugin}hparams/experiment", {"experimentName": ""}))
        settings = {info["name"] for info in experiment["hparamInfos"]}
        assert {"optim.lr", "model.name", "data.global_batch", "train.epochs"} <= settings
        asked = {"experimentName": "", "allowedStatuses": ["STATUS_UNKNOWN"], "startIndex": 0, "sliceSize": 9}
        (group,) = json.loads(ask(address, f"{plugin}hparams/session_groups", asked))["sessionGroups"]
        assert group["hparams"]["train.epochs"] == 4
        newest = {each["name"]["tag"]: each["trainingStep"] for each in group["metricValues"]}
        assert newest["test/accuracy"] == 12
        assert b'"conv2d"' in ask(address, f"{plugin}graphs/graph", run="tb", conceptual="false")
