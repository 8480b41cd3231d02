"""Networks of users that do what few networks do train as in plain torch with plain SGD, eagerly and compiled.

With momentum or decay there is one difference: a weight that took part in the pass of the start and takes none in a
step has a gradient of zero there, and in plain torch none.
"""

import copy
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch.nn import functional

from dist_train.distributed.reduction import Alone, Tree
from dist_train.distributed.world import World
from dist_train.errors import ConfigError
from dist_train.execution import whole_step
from dist_train.execution.auto_settings import draws_random_numbers
from dist_train.seeds import seed_step
from dist_train.train import train_step
from dist_train.training.state import Training
from tests.unit.dist_train.training.test_state import SHAPE, batch, configured, made, started

_compile = torch.compile
INPUTS = SHAPE[1] * SHAPE[2]


class PartOfMore(nn.Module):
    """A weight that is some columns of a larger tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.columns = nn.Parameter((torch.randn(INPUTS, 32) / 12)[:, :16])
        self.last = nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(images.flatten(1) @ self.columns)  # type: ignore[no-any-return]


class TwoTypes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(INPUTS, 4)
        self.scale = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        return self.first(images.flatten(1)) * self.scale.sum().float()  # type: ignore[no-any-return]


class WithScale(nn.Module):
    """A weight without dimensions among others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(INPUTS, 16), nn.Linear(16, 4)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.first(images.flatten(1)).relu()) * self.scale  # type: ignore[no-any-return]


class TiedByMemory(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(INPUTS, 16), nn.Linear(INPUTS, 16), nn.Linear(16, 4)
        self.second.weight.data = self.first.weight.data

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        return self.last(self.first(flat).relu() + self.second(flat))  # type: ignore[no-any-return]


class NotOnBlanks(nn.Module):
    """A layer that has no part in the output for blank images."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.sometimes, self.last = nn.Linear(INPUTS, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Tensor:
        features = self.first(images.flatten(1))
        if images.abs().amax() > 0:
            features = features + self.sometimes(features).relu()
        return self.last(features)  # type: ignore[no-any-return]


class LayerDrop(nn.Module):
    """Blocks that are left out by chance: Fan, Grave and Joulin, arXiv:1909.11556."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(INPUTS, 16), nn.Linear(16, 4)
        self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))

    def forward(self, images: Tensor) -> Tensor:
        features = self.first(images.flatten(1))
        for block in self.blocks:
            if not self.training or torch.rand(()) < 0.5:
                features = features + block(features).relu()
        return self.last(features)  # type: ignore[no-any-return]


class NewBuffer(nn.Module):
    """A running mean that is kept by assignment, so that its tensor is another one after each pass."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(INPUTS, 4)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, images: Tensor) -> Tensor:
        logits = self.first(images.flatten(1))
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * logits.detach().mean(0)
        return logits - self.mean  # type: ignore[no-any-return]


class Counting(nn.Module):
    """A network that is another one at each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.passes = nn.Linear(INPUTS, 4), 0

    def forward(self, images: Tensor) -> Tensor:
        self.passes += 1
        return self.first(images.flatten(1)) * (1 + 1 / self.passes)  # type: ignore[no-any-return]


NETWORKS = (PartOfMore, TwoTypes, WithScale, NotOnBlanks, LayerDrop, NewBuffer)
CASES = [(kind, mode) for kind in NETWORKS for mode in ("off", "model")]


@pytest.fixture(autouse=True)
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Graphs as torch draws them, without the time that their kernels take to compile."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: _compile(function, backend="aot_eager", dynamic=False))
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=False):
        yield
    torch._dynamo.reset()


def built(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind()


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, on graphs that end at a branch
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of torch 2.11, on its own modules
@pytest.mark.parametrize(("kind", "mode"), CASES, ids=lambda value: value if isinstance(value, str) else value.__name__)
def test_it_trains_as_in_plain_torch(tmp_path: Path, kind: type[nn.Module], mode: str) -> None:
    ours, plain = built(kind), built(kind)
    training = started(configured(tmp_path, f"train.compile={mode}"), network=ours)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    for step in range(5):
        one = batch(8)
        trained(training, step)
        optimizer.zero_grad()
        seed_step(training.seed, step, 0, torch.device("cpu"))
        functional.cross_entropy(plain(one.shards[0].images), one.shards[0].labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        assert training.grad_norm is not None
        norms = [weight.grad.norm().float() for weight in plain.parameters() if weight.grad is not None]
        torch.testing.assert_close(training.grad_norm.float(), torch.stack(norms).norm(), rtol=1e-4, atol=1e-6)
    for (name, value), expected in zip(ours.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6, msg=name)


def test_one_number_among_the_weights_leaves_the_others_together(tmp_path: Path) -> None:
    training = started(configured(tmp_path), network=built(WithScale))
    (group,) = training.optimizer.param_groups
    assert [weight.dim() for weight in group["params"]] == [1, 0]


@pytest.mark.parametrize("reduction", [Alone, Tree])
def test_a_step_that_is_undone_leaves_no_trace_in_an_assigned_buffer(reduction: type[Alone]) -> None:
    network = built(NewBuffer)
    parts = reduction(network, network, World())
    network(torch.ones(2, *SHAPE))
    parts.undo()
    assert torch.equal(network.state_dict()["mean"], torch.zeros(4))


def test_weights_of_two_types_are_refused_where_they_can_not_be_added_up(tmp_path: Path) -> None:
    config = configured(tmp_path, "run.reproducible=bitwise", "distributed.shards=2")
    with pytest.raises(ConfigError, match=r"model: it has weights of torch.float64, and run.reproducible=bitwise"):
        started(config, network=built(TwoTypes))


def test_weights_in_the_same_memory_are_refused_because_they_would_part(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model: first.weight and second.weight lie in the same memory"):
        made(configured(tmp_path), network=built(TiedByMemory))


@pytest.mark.parametrize("kind", NETWORKS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("cut", [1, 3])
def test_a_resumed_run_has_the_same_bits(tmp_path: Path, kind: type[nn.Module], optimizer: str, cut: int) -> None:
    """Also of weights that have their first gradient later than others, before the resume or after it."""
    momentum = ["optim.momentum=0.9", "optim.dampening=0.5"] if optimizer == "sgd" else []
    config = configured(tmp_path, f"optim.name={optimizer}", "optim.weight_decay=0.1", *momentum)
    whole = started(config, network=built(kind))
    for step in range(cut):
        trained(whole, step)
    resumed = started(config, network=built(kind), files=copy.deepcopy(whole.files(10, {})))
    for step in range(cut, 8):
        for training in (whole, resumed):
            trained(training, step)
    pairs = zip(whole.network.state_dict().items(), resumed.network.state_dict().values(), strict=True)
    assert [name for (name, one), other in pairs if not torch.equal(one, other)] == []


def trained(training: Training, step: int) -> None:
    assert train_step(training, replace(batch(8), step=step)) is not None
    training.step += 1


def test_whether_a_network_draws_is_found_without_a_trace() -> None:
    draws, kept = built(LayerDrop), built(NewBuffer)
    before = torch.default_generator.get_state()
    assert draws_random_numbers(draws, SHAPE)
    assert not draws_random_numbers(kept, SHAPE)
    assert torch.equal(torch.default_generator.get_state(), before)
    assert torch.equal(kept.state_dict()["mean"], torch.zeros(4))


def test_a_missing_cpp_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler on a CPU, and there is no no-such-compiler"):
        whole_step.prepare(torch.device("cpu"))
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/g++")
    whole_step.prepare(torch.device("cpu"))
    assert torch._dynamo.config.fail_on_recompile_limit_hit
