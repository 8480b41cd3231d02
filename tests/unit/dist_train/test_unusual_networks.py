"""Networks that do what few networks do train and resume as in plain torch."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dist_train.distributed.sharded_tree import ShardedTreeReduction
from dist_train.distributed.world import World
from dist_train.errors import ConfigError
from dist_train.seeds import seed_step
from tests.unit.dist_train.stepper import SHAPE, Stepper, configure, make_batch

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


NETWORKS = (PartOfMore, TwoTypes, WithScale, NotOnBlanks, LayerDrop, NewBuffer)


def build(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind()


@pytest.mark.parametrize("kind", NETWORKS, ids=lambda kind: kind.__name__)
def test_it_trains_as_in_plain_torch(tmp_path: Path, kind: type[nn.Module]) -> None:
    stepper, plain = Stepper(configure(tmp_path), build(kind)), build(kind)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    (batch,) = make_batch(8).shards[0].passes
    for step in range(5):
        stepper.steps([step])
        optimizer.zero_grad()
        seed_step(stepper.config.run.seed, step, 0, torch.device("cpu"))
        functional.cross_entropy(plain(batch.inputs), batch.targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        assert stepper.grad_norm is not None
        norms = [parameter.grad.norm().float() for parameter in plain.parameters() if parameter.grad is not None]
        torch.testing.assert_close(stepper.grad_norm.float(), torch.stack(norms).norm(), rtol=1e-4, atol=1e-6)
    for (name, value), expected in zip(stepper.tensors().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6, msg=name)


def test_shards_start_from_the_buffers_before_the_step_also_if_they_are_assigned() -> None:
    network = build(NewBuffer)
    reduction = ShardedTreeReduction(network, network, World())
    reduction.begin(stop_requested=False)
    network(torch.ones(2, *SHAPE))
    with reduction.shard(has_samples=False):
        assert torch.equal(network.state_dict()["mean"], torch.zeros(4))


def test_parameters_of_two_types_are_refused_if_they_can_not_be_added_up(tmp_path: Path) -> None:
    config = configure(tmp_path, "run.reproducible=bitwise", "distributed.shards=2")
    with pytest.raises(ConfigError, match=r"model: it has weights of torch.float32, and run.reproducible=bitwise"):
        Stepper(config, build(TwoTypes))


@pytest.mark.parametrize("kind", NETWORKS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("optimizer", ["sgd", "dampened", "adamw"])
@pytest.mark.parametrize("cut", [1, 3])
def test_a_resumed_run_has_the_same_bits(tmp_path: Path, kind: type[nn.Module], optimizer: str, cut: int) -> None:
    """Also of parameters that have their first gradient later than others, before the resume or after it."""
    momentum = {
        "sgd": ["optim.momentum=0.9"],
        "dampened": ["optim.momentum=0.9", "optim.dampening=0.5"],
        "adamw": ["optim.name=adamw"],
    }[optimizer]
    config = configure(tmp_path, "optim.weight_decay=0.1", *momentum)
    whole = Stepper(config, build(kind))
    whole.steps(range(cut))
    resumed = Stepper(config, build(kind), copy.deepcopy(whole.files(10)))
    for stepper in (whole, resumed):
        stepper.steps(range(cut, 8))
    pairs = zip(whole.tensors().items(), resumed.tensors().values(), strict=True)
    assert [name for (name, one), other in pairs if not torch.equal(one, other)] == []
