"""The project trains: on two ranks that talk through Gloo, without a GPU or a network."""

import subprocess
import sys
from pathlib import Path

import torch
from dist_train import evaluate, load_model

from nets import Net
from sets import Shapes

SETTINGS = Path(__file__).with_name("settings.yaml")


def test_the_network_takes_the_data() -> None:
    picture, label = Shapes("train", size=10)[0]
    assert Net(width=2)(picture[None]).shape == (1, len(Shapes.classes))
    assert label in range(len(Shapes.classes))


def test_two_ranks_train_and_learn(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ["train", str(SETTINGS), "--nproc", "2", "distributed.backend=gloo", f"run.dir={run}", "train.epochs=2"]
    subprocess.run([sys.executable, "-m", "dist_train.command", *command], check=True)
    evaluation = evaluate(run)
    assert evaluation.value("accuracy") > 0.8
    picture, _ = Shapes("test")[0]
    assert torch.equal(load_model(run)(picture[None]).argmax(1), torch.tensor([0]))
