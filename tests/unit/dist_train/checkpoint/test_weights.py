"""Weights of other programs: every form is read, and what is no weights is refused by name."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dist_train.checkpoint.weights import load_pretrained, read_state_dict
from dist_train.errors import CheckpointError


def make_network(outputs: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, outputs), nn.BatchNorm1d(outputs))


def make_weights() -> dict[str, Tensor]:
    return make_network().state_dict()


WRAPPERS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "alone": lambda weights: weights,
    "the dictionary of the courses": lambda weights: {
        "epoch": 3, "model_state_dict": weights, "optimizer_state_dict": {"state": {}}, "loss": torch.tensor(0.5),
    },
    "state_dict": lambda weights: {"state_dict": weights, "epoch": 3},
    "model": lambda weights: {"model": weights},
    "DistributedDataParallel": lambda weights: {f"module.{name}": value for name, value in weights.items()},
    "a compiled network": lambda weights: {f"_orig_mod.{name}": value for name, value in weights.items()},
    "both": lambda weights: {f"module._orig_mod.{name}": value for name, value in weights.items()},
    "an average of torch": lambda weights: {
        "n_averaged": torch.tensor(2), **{f"module.{name}": value for name, value in weights.items()}
    },
    "half precision": lambda weights: {
        name: value.half() if value.is_floating_point() else value for name, value in weights.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("is_archive", [True, False], ids=["archive", "old format"])
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=list(WRAPPERS))
def test_weights_of_every_form_are_loaded(
    wrap: Callable[[dict[str, Tensor]], Any], is_archive: bool, tmp_path: Path
) -> None:
    weights = make_weights()
    torch.save(wrap(weights), tmp_path / "w.pt", _use_new_zipfile_serialization=is_archive)
    network = make_network()
    load_pretrained(network, read_state_dict(tmp_path / "w.pt"), "w.pt")
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=1e-3, atol=1e-3)


def test_a_network_with_a_part_called_module_keeps_its_names() -> None:
    network, other = (nn.ModuleDict({"module": make_network()}) for _ in range(2))
    load_pretrained(network, other.state_dict(), "w.pt")
    assert all(map(torch.equal, network.state_dict().values(), other.state_dict().values()))


def write_fifo(path: Path) -> None:
    os.mkfifo(path)


def write_truncated(path: Path) -> None:
    torch.save(make_weights(), path)
    path.write_bytes(path.read_bytes()[:-300])


def write_large(path: Path) -> None:
    """Write 3 GB of nothing, which take no place on the disk."""
    with path.open("wb") as file:
        file.truncate(3 * 2**30)


def write_export(path: Path) -> None:
    torch.jit.script(make_network()).save(path)  # type: ignore[no-untyped-call]


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing there": (lambda _: None, "can't be read: No such file or directory"),
    "a directory": (Path.mkdir, "no checkpoint there"),
    "a pipe": (write_fifo, "can't be read: not a regular file"),
    "empty": (Path.touch, "holds no weights that torch can read"),
    "text": (lambda path: path.write_text("hello"), "holds no weights that torch can read"),
    "truncated": (write_truncated, "holds no weights .*is the file complete?"),
    "3 GB of zeros": (write_large, "holds no weights that torch can read"),
    "a program": (write_export, "is a compiled or exported program"),
    "a whole module": (
        lambda path: torch.save(make_network(), path), r"holds pickled objects \(torch.*Sequential\).*--unsafe-pickle"
    ),
    "a number": (lambda path: torch.save(3, path), "holds a int"),
    "an empty dictionary": (lambda path: torch.save({}, path), "holds nothing"),
    "other values": (lambda path: torch.save({"a": torch.ones(1), "b": [1]}, path), "b is a list"),
    "quantised": (
        lambda path: torch.save({"a": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, path),
        "a is a tensor of qint8",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("write", "message"), REFUSED.values(), ids=list(REFUSED))
def test_what_holds_no_weights_is_refused(write: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    write(path := tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=f"{re.escape(str(path))}: .*{message}"):
        read_state_dict(path)


@pytest.mark.parametrize("name", ["x" * 5000, "a/" * 3000, "\0", ""], ids=["long", "deep", "null", "empty"])
def test_names_that_no_file_can_have_are_refused(name: str) -> None:
    with pytest.raises(CheckpointError):
        read_state_dict(name)


def test_a_whole_module_is_read_where_that_is_allowed(tmp_path: Path) -> None:
    torch.save(network := make_network(), tmp_path / "w.pt")
    assert read_state_dict(tmp_path / "w.pt", unsafe_pickle=True).keys() == network.state_dict().keys()


MISFITS: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Any]], str]] = {
    "missing": (lambda weights: {"0.weight": weights["0.weight"]}, "0.bias is missing"),
    "unexpected": (lambda weights: {**weights, "2.weight": torch.ones(1)}, "2.weight is not in the model"),
    "another shape": (
        lambda weights: {**weights, "0.bias": torch.ones(4)}, r"0.bias is \[4\] float32, in the model \[3\] float32"
    ),
    "int8": (lambda weights: {**weights, "0.bias": weights["0.bias"].to(torch.int8)}, r"\[3\] int8.*quantized"),
    "not finite": (lambda weights: {**weights, "0.bias": torch.full((3,), torch.nan)}, r"not finite: 0.bias \(3 of 3"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), MISFITS.values(), ids=list(MISFITS))
def test_weights_of_another_network_are_refused_key_by_key(
    change: Callable[[dict[str, Tensor]], dict[str, Any]], message: str
) -> None:
    network = make_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(network, change(make_weights()), "w.pt")
    assert all(map(torch.equal, network.state_dict().values(), before.values()))


def test_a_new_head_keeps_its_own_weights() -> None:
    network, other = (nn.ModuleDict({"body": nn.Linear(2, 2), "fc": nn.Linear(2, outputs)}) for outputs in (3, 5))
    before = network.state_dict()["fc.weight"].clone()
    load_pretrained(network, other.state_dict(), "w.pt", new_head="fc")
    assert torch.equal(network.state_dict()["body.weight"], other.state_dict()["body.weight"])
    assert torch.equal(network.state_dict()["fc.weight"], before)
