"""What a checkpoint holds: the tensors that were saved, and nothing that runs."""

import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dist_train.checkpoint import serialization
from dist_train.checkpoint.saver import Saver
from dist_train.checkpoint.store import Store
from dist_train.errors import CheckpointError, DamagedError

TRAINING: dict[str, Any] = {
    "epoch": 0,
    "step": 1,
    "optimizer_state_dict": {"state": {}, "param_groups": []},
    "scaler_state_dict": None,
    "loss": None,
    "window": {"loss_sum": 0.0, "samples": 0},
    "best_value": None,
    "best_step": None,
    "evaluated_step": 0,
    "settings": {},
    "choices": {"precision": "fp32", "channels_last": False, "threads": 1, "local_size": 1},
    "machine": {},
}


def content(step: int) -> dict[str, dict[str, Any]]:
    weights = torch.arange(6.0).view(2, 3) + step
    state = {"state": {0: {"exp_avg": weights / 7}}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}
    return {
        "model.pt": {"conv1.weight": weights, "conv1.bias": torch.tensor([0.5])},
        "training.pt": {**TRAINING, "step": step, "optimizer_state_dict": state, "loss": 0.25},
    }


def save(directory: Path, *steps: int, files: dict[str, dict[str, Any]] | None = None) -> Path:
    with Saver(Store(directory), keep_last=9, asynchronous=False) as saver:
        for step in steps:
            saver.save(step, files or content(step))
    return Store(directory).path(steps[-1])


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    loaded = serialization.load(save(tmp_path, 1200))
    assert loaded.path == tmp_path / "step_00001200"
    assert set(loaded.contents) == set(loaded.files) == {"model.pt", "training.pt"}
    for name, tensor in content(1200)["model.pt"].items():
        assert torch.equal(loaded.files["model.pt"][name], tensor)
    training = loaded.files["training.pt"]
    assert (training["step"], training["loss"]) == (1200, 0.25)
    assert torch.equal(
        training["optimizer_state_dict"]["state"][0]["exp_avg"], (torch.arange(6.0).view(2, 3) + 1200) / 7
    )


def test_both_files_load_with_torch_alone(tmp_path: Path) -> None:
    place = save(tmp_path, 3)
    model = torch.load(place / "model.pt", weights_only=True)
    assert list(model) == ["conv1.weight", "conv1.bias"]
    assert torch.load(place / "training.pt", weights_only=True)["step"] == 3


def test_the_manifest_has_the_hash_of_the_weights(tmp_path: Path) -> None:
    place = save(tmp_path, 3)
    manifest = json.loads((place / "manifest.json").read_text())
    assert manifest["weights_sha256"] == serialization.weights_sha256(content(3)["model.pt"])


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"model.pt": content(7)["model.pt"]}, r"model\.pt: its weights are not those whose SHA-256"),
        ({"model.pt": {"conv1.weight": 1}}, r"model\.pt: holds more than tensors"),
        ({"training.pt": content(7)["training.pt"]}, r"training\.pt: is of step 7, not 3"),
    ],
)
def test_files_that_do_not_belong_together_are_damaged(
    tmp_path: Path, files: dict[str, dict[str, Any]], said: str
) -> None:
    encoded = {name: serialization.encode(part) for name, part in {**content(3), **files}.items()}
    place = Store(tmp_path).save(3, encoded, serialization.weights_sha256(content(3)["model.pt"]))
    with pytest.raises(DamagedError, match=f"^{place}: {said}"):
        serialization.load(place)


def test_a_checkpoint_of_another_program_is_refused_and_not_damaged(tmp_path: Path) -> None:
    files = content(3)
    del files["training.pt"]["window"]
    place = save(tmp_path, 3, files=files)
    with pytest.raises(CheckpointError, match=f"^{place}: training\\.pt: was not written by this program") as caught:
        serialization.load(place)
    assert not isinstance(caught.value, DamagedError)


class TestLoadWeights:
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))

    def refusal(self, changes: Mapping[str, Any], without: str = "") -> str:
        before = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        state = {name: tensor + 1 for name, tensor in before.items() if name != without}
        with pytest.raises(CheckpointError, match=r"^model\.pt: ") as caught:
            serialization.load_weights(self.network, {**state, **changes}, "model.pt")
        assert not isinstance(caught.value, DamagedError)
        for name, tensor in self.network.state_dict().items():
            assert torch.equal(tensor, before[name]), "a refusal changes nothing"
        return str(caught.value)

    def test_another_network_is_named_by_what_differs(self) -> None:
        said = self.refusal(
            {"0.weight": torch.zeros(4, 3), "2.weight": torch.zeros(1), "1.bias": torch.zeros(2).int()},
            without="0.bias",
        )
        assert said == (
            "model.pt: is of another network: 0.bias is missing; 2.weight is not in the model; "
            "0.weight is [4, 3] float32, in the model [2, 3] float32; 1.bias is [2] int32, in the model [2] float32"
        )

    def test_of_many_differences_the_first_are_told(self) -> None:
        said = self.refusal({f"more.{number}": torch.zeros(1) for number in range(30)})
        assert said.endswith("more.19 is not in the model; and 10 more")

    def test_values_that_are_not_finite_are_counted(self) -> None:
        broken = torch.tensor([[0.0, float("nan"), 1.0], [float("inf"), float("-inf"), 2.0]])
        said = self.refusal({"0.weight": broken})
        assert "has values that are not finite: 0.weight (3 of 6). Start from an earlier checkpoint" in said


class Trap:
    """Runs a command where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("as_torch", [True, False], ids=["torch", "pickle"])
def test_a_pickle_that_would_run_code_does_not(tmp_path: Path, as_torch: bool) -> None:
    mark, crafted = tmp_path / "it ran", tmp_path / "crafted.pt"
    if as_torch:
        torch.save({"weight": Trap(mark)}, crafted)
    else:
        crafted.write_bytes(pickle.dumps({"weight": Trap(mark)}, protocol=2))
    with pytest.raises(DamagedError, match=r"^training\.pt: does not load"):
        serialization.decode(crafted.read_bytes(), "training.pt")
    assert not mark.exists()
    pickle.loads(pickle.dumps(Trap(mark)))  # noqa: S301 - the trap does work
    assert mark.exists()


@pytest.mark.parametrize("damaged", [b"", b"text\n", b"PK\x03\x04", b"\x80\x02", bytes(300), b"\x80\x02}q\x00."])
def test_bytes_that_are_no_checkpoint_are_refused(damaged: bytes) -> None:
    with pytest.raises(DamagedError, match=r"^model\.pt: "):
        serialization.decode(damaged, "model.pt")


def test_a_file_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    with pytest.raises(DamagedError, match=r"^model\.pt: does not load: it holds a Tensor"):
        serialization.decode((tmp_path / "tensor.pt").read_bytes(), "model.pt")


def test_the_hash_of_weights_sees_numbers_not_memory() -> None:
    convolution = nn.Conv2d(3, 4, 3)
    before = serialization.weights_sha256(convolution.state_dict())
    convolution.to(memory_format=torch.channels_last)
    assert convolution.weight.stride() != convolution.weight.contiguous().stride()
    assert serialization.weights_sha256(convolution.state_dict()) == before


def test_the_hash_of_weights_sees_every_change() -> None:
    weight = torch.arange(6.0)
    variants = [
        {"a": weight},
        {"b": weight},
        {"a": weight.view(2, 3)},
        {"a": weight.double()},
        {"a": weight.view(torch.int32)},
        {"a": weight * torch.tensor([-1.0, 1, 1, 1, 1, 1])},  # minus zero
        {"a": weight, "b": torch.empty(0)},
        {"a": weight, "b": torch.tensor(0)},
        {"a": weight.bfloat16()},
    ]
    assert len({serialization.weights_sha256(variant) for variant in variants}) == len(variants)
