"""Each leaf of a real checkpoint changed: it is refused by name, or loads and trains."""

import copy
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_train.checkpoint import resume, serialization
from dist_train.checkpoint.schema import check_training
from dist_train.checkpoint.serialization import Files
from dist_train.distributed.world import World
from dist_train.errors import CheckpointError
from dist_train.execution.auto_settings import AutoSettings, Convolutions, decide
from dist_train.settings.schema import Config
from tests.unit.dist_train.checkpoint.test_serialization import TRAINING
from tests.unit.dist_train.stepper import Stepper, configure, make_batch

DROPPED = object()
VALUES: dict[str, Any] = {
    "dropped": DROPPED,
    "none": None,
    "text": "text",
    "one": 1,
    "a fraction": 0.5,
    "negative": -1,
    "huge": 10**400,
    "a million": 10**6,
    "not a number": math.nan,
    "infinite": math.inf,
    "true": True,
    "a list": [1, "a"],
    "a dictionary": {"a": 1},
    "numbers as keys": {1: {2: 3}},
    "bytes": b"\xff",
    "complex": 1j,
    "a set": {1},
    "a dtype": torch.float32,
    "a tensor": torch.tensor(1.0),
    "an empty tensor": torch.empty(0),
    "whole numbers": torch.tensor([1, 2]),
    "an expanded tensor": torch.zeros(1).expand(2**40),
    "a sparse tensor": torch.zeros(2, 2).to_sparse(),
    "a tensor without values": torch.empty(3, device="meta"),
}
OPTIMIZERS = ("optim.name=adam", "optim.name=adafactor", "optim.name=muon")
SIMPLER_OPTIMIZERS = ("optim.name=sgd optim.momentum=0.9", "optim.name=rprop")
"""Their states hold less of the same kinds."""


def trained(tmp_path: Path, optimizer: str) -> tuple[Config, Files]:
    """A checkpoint after two steps."""
    config = configure(tmp_path, "train.ema_decay=0.9", *optimizer.split())
    stepper = Stepper(config)
    for size in (8, 6):
        stepper.state.window.add(stepper.step(make_batch(size)), size)
        stepper.state.step += 1
    about = resume.describe_run(config, stepper.state.auto_settings, World())
    return config, stepper.state.checkpoint_files(1, about)


def leaves(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to each value and each container."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in children:
        yield (*at, key)
        yield from leaves(value, (*at, key))


def changed(tree: Any, at: tuple[Any, ...], value: Any) -> Any:
    """The tree with another value in one place; what is not on the way is shared."""
    copied, key = copy.copy(tree), at[0]
    if len(at) > 1:
        copied[key] = changed(tree[key], at[1:], value)
    elif value is DROPPED:
        del copied[key]
    else:
        copied[key] = value
    return copied


def save(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def load(config: Config, files: Files, is_described_only: bool = False) -> None:
    """Do with a checkpoint what a resume does, and train a step."""
    training = files["training.pt"]
    check_training(training)
    now = AutoSettings.from_dict(training["choices"])
    resume.describe_changes(files, config, now, World())
    if is_described_only:
        return
    decide(config.train, config.distributed, World(), Convolutions(10**6, 64, 64), training["choices"])
    stepper = Stepper(config, files=files)
    assert math.isfinite(stepper.step(make_batch(4)))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in stepper.network.state_dict().values())


@pytest.mark.parametrize(
    "optimizer", [*OPTIMIZERS, *(pytest.param(name, marks=pytest.mark.long) for name in SIMPLER_OPTIMIZERS)]
)
def test_every_leaf_of_training_pt(tmp_path: Path, optimizer: str) -> None:
    config, files = trained(tmp_path, optimizer)
    load(config, files)
    wrong, refused = [], 0
    places = list(leaves(files["training.pt"]))
    if optimizer != OPTIMIZERS[0]:
        places = [place for place in places if place[:2] == ("optimizer_state_dict", "state")]
    for place in places:
        is_argument = place[:2] == ("optimizer_state_dict", "param_groups") and len(place) > 3 and place[3] != "params"
        for what, value in list(VALUES.items())[:: 8 if is_argument else 1]:  # today's arguments take their place
            training = changed(files["training.pt"], place, value)
            try:
                load(config, {**files, "training.pt": training}, place[0] in ("settings", "machine"))
            except CheckpointError as error:
                refused += 1
                if "training.pt" not in str(error) and place[0] not in ("choices", "settings"):
                    wrong.append((place, what, f"names no file: {error}"))
            except Exception as error:
                wrong.append((place, what, repr(error)))
    assert wrong == []
    assert refused > 9 * len(places)


@pytest.mark.parametrize("file", ["model.pt", "average.pt"])
def test_every_tensor_of_the_weights(tmp_path: Path, file: str) -> None:
    """Weights of another dtype or form are refused, whatever values they have."""
    config, files = trained(tmp_path, OPTIMIZERS[0])
    accepted = []
    for name, tensor in files[file].items():
        others = {str(dtype): tensor.to(dtype) for dtype in (torch.int8, torch.bool, torch.complex64, torch.float16)}
        others |= {"longer": torch.cat([tensor.reshape(-1)] * 2), "not a number": tensor * math.nan}
        others |= {what: VALUES[what] for what in ("dropped", "none", "text", "a sparse tensor")}
        for what, other in others.items():
            weights = changed(files[file], (name,), other)
            try:
                decoded = serialization.decode_files(
                    {name: save(each) for name, each in {**files, file: weights}.items()}
                )
                load(config, decoded)
                accepted.append((name, what))
            except CheckpointError as error:
                accepted += [] if file in str(error) else [(name, str(error))]
    assert accepted == []


def test_all_faults_are_named_and_newer_keys_pass() -> None:
    check_training({**TRAINING, "later": 1})
    with pytest.raises(CheckpointError) as raised:
        check_training({**TRAINING, "step": "\x1b[31m", "window": {"samples": -1}})
    assert [line.split(":")[0] for line in str(raised.value).splitlines()[1:-1]] == [
        *("  step", "  window.loss_sum", "  window.samples")
    ]
