"""Exports: every format is written whole, read back and compared; what can't be exported leaves nothing."""

import importlib.util
import json
import math
import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from dist_train import load_config, load_model
from dist_train.checkpoint.weights import read_state_dict
from dist_train.errors import CheckpointError
from dist_train.models import build_model
from dist_train.results import export as module
from dist_train.run_dir import RunDir
from dist_train.training.initial_weights import load_initial_weights
from launch.cli import main

FORMATS = ("state_dict", "checkpoint", "torch_export", "onnx")


def export(run: Path, form: str, output: Path, *arguments: str) -> int:
    return main(["export", str(run), "--format", form, "-o", str(output), *arguments])


@pytest.mark.parametrize("form", FORMATS)
def test_an_export_is_equal_to_the_network_on_real_samples(
    form: str, digits_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if form == "onnx" and not importlib.util.find_spec("onnxruntime"):
        pytest.skip("needs the extra onnx")
    assert export(digits_run, form, tmp_path / "out", "--check", "--checkpoint", "best") == 0
    printed, errors = capfd.readouterr()
    found = re.match(r"check: 32 samples, largest difference (\S+), largest output (\S+)\n(.*)", printed)
    assert found, printed
    assert float(found[1]) <= (1e-4 if form == "onnx" else 1e-6)
    assert re.fullmatch(rf".*/out: {form} of \S+, 0.\d MB", found[3])
    assert errors == "", "the exporters' own warnings are not shown"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_state_dict_is_the_average_and_a_checkpoint_what_the_optimizer_has_updated(
    digits_run: Path, tmp_path: Path
) -> None:
    latest = RunDir(digits_run).checkpoints / "latest"
    for form, name in (("state_dict", "average.pt"), ("checkpoint", "model.pt")):
        assert export(digits_run, form, tmp_path / form) == 0
        exported, kept = read_state_dict(tmp_path / form), read_state_dict(latest / name)
        assert exported.keys() == kept.keys()
        assert all(map(torch.equal, exported.values(), kept.values()))
    content = torch.load(tmp_path / "checkpoint", weights_only=True)
    assert list(content) == ["epoch", "model_state_dict", "optimizer_state_dict", "loss"]
    network = load_model(digits_run).network
    optimizer = torch.optim.Adam(network.parameters())
    optimizer.load_state_dict(content["optimizer_state_dict"])
    assert (content["epoch"], type(content["loss"])) == (2, float)


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # in torch 2.11 itself
def test_a_program_says_how_its_inputs_are_prepared(digits_run: Path, tmp_path: Path) -> None:
    assert export(digits_run, "torch_export", tmp_path / "digits.pt2") == 0
    extra = {"dist_train.json": ""}
    torch.export.load(tmp_path / "digits.pt2", extra_files=extra)
    about = json.loads(extra["dist_train.json"])
    assert (about["classes"], about["shape"]) == ([str(digit) for digit in range(10)], [1, 28, 28])
    assert about["inputs"].startswith("(pixels / 255 - mean) / std")


def test_an_export_that_differs_is_not_written(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "load_pretrained", lambda *_: None)  # the weights stay zero
    (tmp_path / "out.pt").write_text("before")
    assert export(digits_run, "state_dict", tmp_path / "out.pt", "--check") == 1
    assert "differs, and is not written" in capsys.readouterr().out
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("out.pt", "before")]


@pytest.mark.parametrize(
    ("expected", "found", "is_equal"),
    [
        ([1.0, 2.0], [1.0, 2.0], True),
        ([1.0, math.nan, math.inf], [1.0, math.nan, math.inf], True),
        ([[]], [[]], True),
        ([True, False], [True, False], True),
        ([1.0, 2.0], [1.0, 2.1], False),
        ([1.0, 2.0], [1.0, math.nan], False),
        ([1.0, math.inf], [1.0, 2.0], False),
        ([1.0, math.inf], [1.0, -math.inf], False),
        ([1.0, 1.0], [1.0], False),
        ([True, False], [True, True], False),
    ],
)
def test_outputs_are_compared_whatever_they_are(
    expected: list[Any], found: list[Any], is_equal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, options = Mock(network=lambda _: torch.tensor(expected)), Mock(format="onnx")
    monkeypatch.setattr(module, "_open_onnx", lambda _: lambda _: [torch.tensor(found)])
    monkeypatch.setattr(module, "_read_samples", lambda *_: [torch.zeros(2, 3)])
    assert module._check(options, Path("out"), model, Path("run")) == is_equal


def test_the_weights_of_a_whole_module_are_taken_out_only_where_that_is_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(network := nn.Linear(2, 3), tmp_path / "net.pkl")
    assert export(tmp_path / "net.pkl", "state_dict", tmp_path / "net.pt") == 2
    assert "--unsafe-pickle" in capsys.readouterr().err
    assert export(tmp_path / "net.pkl", "state_dict", tmp_path / "net.pt", "--unsafe-pickle") == 0
    assert torch.equal(read_state_dict(tmp_path / "net.pt")["weight"], network.weight)
    assert export(tmp_path / "net.pkl", "onnx", tmp_path / "net.onnx", "--unsafe-pickle") == 2


def test_a_network_that_depends_on_its_values_is_refused(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Choosy(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs if float(inputs.sum()) > 0 else -inputs

    model = load_model(digits_run)
    model.network = Choosy()
    monkeypatch.setattr(module, "load_model", lambda *_, **__: model)
    assert export(digits_run, "torch_export", tmp_path / "out.pt2") == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("run", "output", "arguments", "message"),
    [
        ("nothing", "out.pt", (), "is not a run"),
        (".", "out.pt", (), "is not a run"),
        ("RUN", "nothing/out.pt", (), "nothing/out.pt: can't be written: No such file or directory"),
        ("RUN", ".", (), "is there and is not a file"),
        ("RUN", "out.pt", ("--checkpoint", "9"), "step_00000009"),
    ],
)
def test_what_can_not_be_read_or_written_is_named(
    run: str, output: str, arguments: tuple[str, ...], message: str, digits_run: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    source = digits_run if run == "RUN" else tmp_path / run
    assert export(source, "state_dict", tmp_path / output, *arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["checkpoint", "state_dict", None], ids=str)
def test_what_was_trained_starts_another_run(form: str | None, digits_run: Path, tmp_path: Path) -> None:
    """By `run.init`, of an export, of the run itself, and with other classes where the head is new."""
    start = digits_run if form is None else tmp_path / "out.pt"
    if form is not None:
        export(digits_run, form, start)
    config = load_config("digits", [f"run.init={start}", "optim=sgd", "data.global_batch=4"])
    network = build_model(config.model, (1, 28, 28), 10, seed=1)
    load_initial_weights(config, network)
    name = "average.pt" if form == "state_dict" else "model.pt"
    kept = read_state_dict(RunDir(digits_run).checkpoints / "latest" / name)
    assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())
    other = build_model(config.model, (1, 28, 28), 3, seed=1)
    with pytest.raises(CheckpointError, match=r"^run.init: .*model\.head=new"):
        load_initial_weights(config, other)
    load_initial_weights(load_config("digits", [f"run.init={start}", "model.head=new"]), other)
    changed = [name for name, value in other.state_dict().items() if not torch.equal(value, kept[name])]
    assert changed == ["output.weight", "output.bias"]
