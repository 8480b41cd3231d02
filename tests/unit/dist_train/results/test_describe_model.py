"""What `dist-train model` says of networks that are known."""

import json
from pathlib import Path

import pytest
import torch

from dist_train.results.describe_model import describe_model
from dist_train.settings.loader import load_config
from launch import cli

LENET = {
    "conv1.weight": [6, 1, 5, 5],
    "conv1.bias": [6],
    "conv2.weight": [16, 6, 5, 5],
    "conv2.bias": [16],
    "fc1.weight": [120, 400],
    "fc1.bias": [120],
    "fc2.weight": [84, 120],
    "fc2.bias": [84],
    "fc3.weight": [10, 84],
    "fc3.bias": [10],
}
OWN = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lazy = nn.LazyLinear(5)
        self.twice = nn.Linear(5, 5, bias=False)
        self.scale = nn.Parameter(torch.ones(5))
        self.never = nn.Linear(3, 3)
        self.never.requires_grad_(False)

    def forward(self, inputs):
        hidden = self.lazy(inputs.flatten(1).squeeze())
        return self.twice(self.twice(hidden)) * self.scale
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.yaml"
    path.write_text("data: {name: synthetic, shape: [1, 32, 32]}\nmodel: lenet\n")
    (tmp_path / "own.py").write_text(OWN)
    return path


def test_lenet_has_its_ten_parameters(file: Path) -> None:
    found = describe_model(load_config(file)).to_dict()
    assert {each["name"]: each["shape"] for each in found["parameters"]} == LENET
    assert {(each["dtype"], each["trained"], each["group"]) for each in found["parameters"]} == {("float32", True, 0)}
    assert (found["count"], found["trained"]) == (61_706, 61_706)
    layers = {each["name"]: (each["outputs"], each["multiply_adds"]) for each in found["layers"]}
    assert layers["conv1"] == ([[6, 28, 28]], 28 * 28 * 6 * 25)
    assert layers["conv2"] == ([[16, 10, 10]], 10 * 10 * 16 * 6 * 25)
    assert layers["fc1"] == ([[120]], 400 * 120)
    assert found["multiply_adds"] == 117_600 + 240_000 + 48_000 + 10_080 + 840


def test_layers_that_are_lazy_shared_frozen_or_not_called(file: Path) -> None:
    found = describe_model(load_config(file, [f"model.name={file.parent}/own.py:Net"]))
    layers = {layer.name: layer for layer in found.layers}
    assert list(layers) == ["lazy", "twice", "(itself)", "never"]
    assert (layers["twice"].calls, layers["twice"].multiply_adds) == (2, 2 * 25)
    assert (layers["lazy"].parameters, layers["lazy"].multiply_adds) == (1024 * 5 + 5, 1024 * 5)
    assert (layers["(itself)"].parameters, layers["never"].outputs, layers["never"].trained) == (5, None, 0)
    text = str(found)
    assert "not called" in text
    assert "Linear x2" in text
    assert text.endswith(
        "frozen in the first epoch: 2 parameters, 12 weights\n    never.weight [3, 3]\n    never.bias [3]"
    )


def test_what_is_frozen_is_in_the_group_of_its_later_epoch(file: Path) -> None:
    found = describe_model(load_config(file, ["model.freeze=backbone", "model.unfreeze={2: [fc2.*]}"])).to_dict()
    assert {each["name"]: each["group"] for each in found["parameters"] if not each["trained"]} == {
        name: 0 if name.startswith("fc2.") else None for name in LENET if not name.startswith("fc3.")
    }
    assert (found["count"], found["trained"]) == (61_706, 850)


def test_the_command_prints_text_or_json(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["model", str(file), "optim.name=muon"]
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert "conv1    Conv2d        [6, 28, 28]       156      156        117,600" in printed
    assert "group 0: muon: 5 parameters" in printed
    assert "    fc3.weight [10, 84]" in printed
    assert cli.main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [group["optimizer"] for group in found["groups"]] == ["muon", "adamw"]
    assert {each["group"] for each in found["parameters"]} == {0, 1}
    assert not Path("runs/a").exists()


def test_generators_stay_as_they_are(file: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    describe_model(load_config(file))
    assert torch.equal(torch.get_rng_state(), before)
