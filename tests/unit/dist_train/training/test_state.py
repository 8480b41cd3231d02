"""The state of a training: what a checkpoint holds, and how it continues under changed settings."""

import math
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from dist_train.checkpoint import serialization
from dist_train.checkpoint.schema import check_training
from dist_train.errors import CheckpointError, ConfigError
from dist_train.execution.gpu import ALIGNMENT
from dist_train.models import build_model
from dist_train.optim.build import build_optimizer
from dist_train.training.state import TrainState
from tests.unit.dist_train.optim.in_torch import OPTIMIZERS
from tests.unit.dist_train.stepper import CLASSES, SHAPE, Stepper, configure, make_batch

NAMES = [name for section in OPTIMIZERS for name in get_args(section.model_fields["name"].annotation)]


class TiedByMemory(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight.data = self.first.weight.data


class PartsOfOne(nn.Module):
    """A network whose parameters are parts of one tensor, which begin anywhere."""

    def __init__(self) -> None:
        super().__init__()
        whole = torch.linspace(-1, 1, 3 + 4 * 144 + 4)
        self.one = nn.Linear(144, 4)
        self.one.weight.data, self.one.bias.data = whole[3:-4].view(4, 144), whole[-4:]

    def forward(self, images: Tensor) -> Tensor:
        return self.one(images.flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("tier", ["elastic", "bitwise"])
def test_parameters_and_gradients_are_aligned(tmp_path: Path, tier: str) -> None:
    """As vector instructions of a GPU need it, and what Inductor compiles for it."""
    stepper = Stepper(configure(tmp_path, f"run.reproducible={tier}"), PartsOfOne())
    stepper.steps([0, 1])
    parameters = list(stepper.network.parameters())
    assert [tensor.data_ptr() % ALIGNMENT for tensor in (*parameters, *stepper.reduction.gradients())] == [0] * 4


def test_parameters_in_the_same_memory_are_refused_because_they_would_part(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model: first.weight and second.weight share memory"):
        Stepper(configure(tmp_path), TiedByMemory())


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_before_the_first_step_continues_like_a_start(tmp_path: Path, name: str) -> None:
    more = ["optim.momentum=0.9", "optim.dampening=0.5"] if name == "sgd" else []
    config = configure(tmp_path, f"optim.name={name}", *more)
    first = Stepper(config)
    second = Stepper(config, files=first.files())
    for size in (8, 6):
        for stepper in (first, second):
            stepper.step(make_batch(size))
    assert all(map(torch.equal, first.network.parameters(), second.network.parameters()))


@pytest.mark.parametrize("name", NAMES)
def test_the_saved_optimizer_is_torch_s_own(tmp_path: Path, name: str) -> None:
    """torch's optimizer over the plain network takes the state, and continues alike."""
    config = configure(tmp_path, f"optim.name={name}", *(["optim.momentum=0.9"] if name == "sgd" else []))
    stepper = Stepper(config)
    for size in (8, 6):
        stepper.step(make_batch(size))
    files = stepper.files()
    plain = build_model(config.model, SHAPE, CLASSES, 0)
    plain.load_state_dict(files["model.pt"])
    optimizer = build_optimizer(config.optim, plain)
    saved = serialization.decode(bytes(serialization.encode(files["training.pt"])), "training.pt")
    optimizer.load_state_dict(saved["optimizer_state_dict"])
    stepper.step(make_batch(5))
    for gradient, parameter in zip(stepper.gradients(), plain.parameters(), strict=True):
        parameter.grad = gradient.contiguous()
    optimizer.step()
    for one, other in zip(stepper.network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("overrides", "best"),
    [
        ([], [False, True, True, False, False, False, True]),
        (["checkpoint.monitor=loss"], [False, True, False, False, False, True, False]),
        (["checkpoint.monitor=loss", "checkpoint.mode=max"], [False, True, True, False, False, False, True]),
    ],
)
def test_only_a_better_number_is_the_best(tmp_path: Path, overrides: list[str], best: list[bool]) -> None:
    """The same where each of them comes after a resume."""
    values = (math.nan, 0.2, 0.5, math.inf, 0.5, 0.1, 0.6)
    config = configure(tmp_path, *overrides)
    stepper = Stepper(config)
    assert [stepper.state.is_best(value) for value in values] == best
    found = []
    files = None
    for value in values:
        stepper = Stepper(config, files=files)
        found.append(stepper.state.is_best(value))
        files = stepper.files()
        check_training(files["training.pt"])
    assert found == best


BEST = ("best_value", "best_step", "evaluations")


@pytest.mark.parametrize(
    ("overrides", "split", "is_kept"),
    [
        ([], "test", True),
        (["checkpoint.monitor=accuracy"], "test", True),
        ([], "validation", False),
        (["checkpoint.monitor=loss"], "test", False),
        (["checkpoint.mode=min"], "test", False),
        (["loss=half_sse"], "test", True),
    ],
)
@pytest.mark.parametrize("is_old", [False, True])
def test_what_was_best_by_another_number_or_split_is_forgotten(
    tmp_path: Path, overrides: list[str], split: str, is_kept: bool, is_old: bool
) -> None:
    first = Stepper(configure(tmp_path)).state
    first.step = 3
    first.is_best(0.75)
    first.record_evaluation(0.75)
    files = first.checkpoint_files(1, {})
    if is_old:  # of a version that knew accuracies only, of the split that it would still take
        del files["training.pt"]["best_of"]
        is_kept |= split == "validation"
    stepper = Stepper(configure(tmp_path, *overrides))
    state = TrainState(stepper.config, stepper.network, stepper.state.auto_settings, stepper.world, files, split)
    assert [getattr(state, name) for name in BEST] == ([0.75, 3, [0.75]] if is_kept else [None, None, []])


OTHER_NUMBERS = {
    "the same": ("loss", "loss=cross_entropy", "loss=cross_entropy", True),
    "in training only": ("loss", "loss=cross_entropy", "loss.args.label_smoothing=0.1", True),
    "another loss": ("loss", "loss=cross_entropy", "loss=half_sse", False),
    "other arguments": ("loss", "loss.args.ignore_index=3", "loss.args.ignore_index=4", False),
    "another folder": ("loss", "loss={0}/one/own.py:f", "loss={0}/two/own.py:f", True),
    "another function": ("loss", "loss={0}/one/own.py:f", "loss={0}/one/own.py:g", False),
    "a metric of another file": ("f", "metrics=[{0}/one/own.py:f]", "metrics=[{0}/one/other.py:f]", False),
}


@pytest.mark.parametrize("case", OTHER_NUMBERS)
def test_what_a_number_means_is_compared(tmp_path: Path, case: str) -> None:
    for name in ("one/own.py", "one/other.py", "two/own.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("def f(output, target): ...\ndef g(output, target): ...\n")
    monitor, before, now, is_kept = OTHER_NUMBERS[case]
    configs = [
        configure(tmp_path, "checkpoint.mode=min", f"checkpoint.monitor={monitor}", each.format(tmp_path))
        for each in (before, now)
    ]
    first = Stepper(configs[0]).state
    first.is_best(0.75)
    files = first.checkpoint_files(1, {})
    assert Stepper(configs[1], files=files).state.best_value == (0.75 if is_kept else None)


def test_a_checkpoint_holds_all_that_the_next_step_needs(tmp_path: Path) -> None:
    config = configure(tmp_path, "optim.momentum=0.9", "train.ema_decay=0.9")
    first = Stepper(config)
    for size in (8, 6):
        first.state.window.add(first.step(make_batch(size)), size)
        first.state.step += 1
    files = first.files(steps_per_epoch=2)
    assert set(files) == {"model.pt", "average.pt", "training.pt"}
    check_training(files["training.pt"])
    second = Stepper(config, files=files)
    for stepper in (first, second):
        stepper.step(make_batch(5))
    for name, tensor in first.network.state_dict().items():
        averages = [each.state.evaluated_network.state_dict()[name] for each in (first, second)]
        assert torch.equal(second.network.state_dict()[name], tensor)
        assert torch.equal(averages[0], averages[1])
        assert not torch.equal(averages[0], tensor)


def test_a_changed_argument_of_the_optimizer_is_taken(tmp_path: Path) -> None:
    first = Stepper(configure(tmp_path, "optim.momentum=0.9"))
    first.step(make_batch(4))
    changed = configure(tmp_path, "optim.momentum=0.5", "optim.weight_decay=0.1")
    optimizer = Stepper(changed, files=first.files()).state.optimizer
    assert (optimizer.param_groups[0]["momentum"], optimizer.param_groups[0]["weight_decay"]) == (0.5, 0.1)
    assert len(optimizer.state) == len(optimizer.param_groups[0]["params"])


@pytest.mark.parametrize(
    ("before", "changed"),
    [
        ("adam", {"amsgrad": "true"}),
        ("rmsprop", {"momentum": "0.9", "centered": "true"}),
        ("sgd", {"momentum": "0.9"}),
        ("sgd", {"momentum": "0.9", "dampening": "0.5"}),
    ],
)
def test_an_argument_that_keeps_more_state_is_taken(tmp_path: Path, before: str, changed: dict[str, str]) -> None:
    first = Stepper(configure(tmp_path, f"optim.name={before}"))
    first.steps([0])
    more = [f"optim.{name}={value}" for name, value in changed.items()]
    second = Stepper(configure(tmp_path, f"optim.name={before}", *more), files=first.files())
    parameters = [parameter.clone() for parameter in second.network.parameters()]
    second.step(make_batch(4))
    assert all(not torch.equal(*pair) for pair in zip(parameters, second.network.parameters(), strict=True))


def test_a_momentum_that_is_added_at_a_resume_starts_at_zero(tmp_path: Path) -> None:
    plain = Stepper(configure(tmp_path, "optim.momentum=0"))
    plain.steps([0])
    resumed = Stepper(configure(tmp_path, "optim.momentum=0.9"), files=plain.files())
    for parameter in resumed.network.parameters():
        assert not resumed.state.optimizer.state[parameter]["momentum_buffer"].any()


def test_loaded_state_has_the_strides_of_its_parameter(tmp_path: Path) -> None:
    """Fused kernels walk both as one block of memory, and a checkpoint is read in torch's default format."""
    config = configure(tmp_path, "optim.name=adam", "train.channels_last=on")
    first = Stepper(config)
    first.step(make_batch(8))
    files = {
        name: serialization.decode(bytes(serialization.encode(each)), name) for name, each in first.files().items()
    }
    second = Stepper(config, files=files)
    for parameter, state in second.state.optimizer.state.items():
        assert state["exp_avg"].stride() == parameter.stride()
    assert any(not p.is_contiguous() for p in second.network.parameters())


def test_a_checkpoint_of_another_network_names_what_differs(tmp_path: Path) -> None:
    files = Stepper(configure(tmp_path)).files()
    first, *_, last = files["model.pt"]
    files["model.pt"][last] = torch.zeros(4, 7)
    del files["model.pt"][first]
    with pytest.raises(CheckpointError) as refusal:
        Stepper(configure(tmp_path), files=files)
    assert first in str(refusal.value)
    assert last in str(refusal.value)
