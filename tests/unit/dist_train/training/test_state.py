"""The state of a training: how a batch is cut and weighted, and what a checkpoint holds."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from dist_train.checkpoint import resume, serialization
from dist_train.checkpoint.serialization import NEEDED, Files
from dist_train.data.batches import Batch, Shard
from dist_train.distributed import reduction
from dist_train.distributed.reduction import LOSS
from dist_train.distributed.world import World
from dist_train.errors import CheckpointError, ConfigError
from dist_train.execution.auto_settings import Convolutions, choose
from dist_train.models import build_model
from dist_train.optim.optimizer import build_optimizer
from dist_train.settings.loader import load_config
from dist_train.settings.schema import Config, Optim
from dist_train.train import train_step
from dist_train.training.state import Training

SHAPE = (1, 12, 12)
NAMES = [name for section in Optim.__subclasses__() for name in get_args(section.model_fields["name"].annotation)]
_compile = torch.compile


def configured(tmp_path: Path, *overrides: str) -> Config:
    path = tmp_path / "config.yaml"
    path.write_text(f"data: {{name: synthetic, shape: {list(SHAPE)}, num_classes: 4}}\nmodel: {{name: mnist_cnn}}\n")
    return load_config(path, ["optim.lr=0.1", *overrides])


def made(config: Config, world: World | None = None, network: nn.Module | None = None) -> Training:
    world = world or World()
    network = network or build_model(config.model, SHAPE, 4, config.run.seed)
    return Training(
        config, network, choose(config.train, config.distributed, world, Convolutions(10**6, 64, 64), None), world
    )


def started(config: Config, network: nn.Module | None = None, files: Files | None = None) -> Training:
    training = made(config, network=network)
    if files:
        training.restore(files)
    training.start(8, SHAPE)
    return training


def batch(size: int, share: int | None = None, count: int | None = None) -> Batch:
    generator = torch.Generator().manual_seed(size)
    images = torch.randn(size, *SHAPE, generator=generator)
    labels = torch.randint(0, 4, (size,), generator=generator)
    share = size if share is None else share
    shard = Shard(images, labels, share, number=0, indices=torch.arange(share))
    return Batch((shard,), count or size, step=0, epoch=0, samples=torch.arange(count or size))


def loss_of(training: Training, batch: Batch) -> float:
    note = train_step(training, batch)
    assert note is not None
    return note[LOSS].item()


def gradients(training: Training) -> list[Tensor]:
    return [weight.grad.clone() for weight in training.network.parameters() if weight.grad is not None]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_step_in_pieces_has_the_gradient_of_a_whole_one(tmp_path: Path) -> None:
    whole, pieces = started(configured(tmp_path)), started(configured(tmp_path, "train.micro_batch=3"))
    assert [len(labels) for _, labels in pieces.cut(batch(8).shards[0])] == [3, 3, 2]
    losses = [loss_of(training, batch(8)) for training in (whole, pieces)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for one, other in zip(gradients(whole), gradients(pieces), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_share_weighs_by_the_whole_batch(tmp_path: Path) -> None:
    """DDP takes the mean over ranks, so a rank's gradient is ranks / samples of its sum."""
    alone, third = started(configured(tmp_path)), made(configured(tmp_path), World(rank=1, size=3))
    third.reduction.averaged_over = 3
    train_step(alone, batch(4))
    train_step(third, batch(4, count=10))
    for one, other in zip(gradients(alone), gradients(third), strict=True):
        torch.testing.assert_close(other, one * 4 * 3 / 10, rtol=1e-4, atol=1e-6)


def test_a_step_that_nobody_makes_changes_nothing(tmp_path: Path) -> None:
    """Its forward pass has run by then, on a stand-in or on images that the next start sees again."""
    training = started(configured(tmp_path), network=nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(144, 4)))
    training.reduction = reduction.Tree(training.network, training.network, training.world)
    train_step(training, batch(8))
    before = {name: tensor.clone() for name, tensor in training.network.state_dict().items()}
    assert train_step(training, replace(batch(6), void=True)) is None
    assert [
        name for name, tensor in training.network.state_dict().items() if not torch.equal(tensor, before[name])
    ] == []


def test_a_momentum_that_is_added_at_a_resume_is_kept_from_there_on(tmp_path: Path) -> None:
    config = configured(tmp_path, "optim.momentum=0")
    plain = started(config)
    train_step(plain, batch(8))
    plain.step = 1
    files = plain.files(1, resume.about(config, plain.choices, plain.world))
    resumed = started(configured(tmp_path, "optim.momentum=0.9"), files=files)
    (weight,) = resumed.optimizer.param_groups[0]["params"]
    assert torch.equal(resumed.optimizer.state[weight]["momentum_buffer"], torch.zeros_like(weight))


@pytest.mark.parametrize("losses", [[2.0, 1.0], [2.0, float("nan")]])
def test_a_loss_that_is_no_number_is_found_in_any_step_of_a_call(tmp_path: Path, losses: list[float]) -> None:
    training = started(configured(tmp_path))
    whole_step = Mock(several=lambda *_: (torch.tensor(losses), None))
    training.whole_step = whole_step
    made, norms = training.several([batch(8), batch(8)], [0.1, 0.1])
    assert norms == [None, None]
    assert made == pytest.approx(losses, nan_ok=True)
    assert training.reduction.is_own_loss_finite() is all(map(math.isfinite, losses))


@pytest.mark.parametrize("reduction", [reduction.Alone, reduction.Tree])
def test_a_loss_that_is_no_number_is_found_in_any_pass(tmp_path: Path, reduction: type[reduction.Alone]) -> None:
    training = started(configured(tmp_path, "train.micro_batch=4"))
    training.reduction = reduction(training.network, training.network, training.world)
    spoiled = batch(8)
    spoiled.shards[0].images[0] = torch.nan
    for each, is_finite in ((batch(8), True), (spoiled, False)):
        train_step(training, each)
        assert training.reduction.is_own_loss_finite() is is_finite


def test_a_stand_in_weighs_nothing(tmp_path: Path) -> None:
    training = started(configured(tmp_path))
    assert loss_of(training, batch(2, share=0, count=1)) == 0
    assert all((gradient == 0).all() for gradient in gradients(training))


def test_synchronised_statistics_see_no_stand_in(tmp_path: Path) -> None:
    training = started(configured(tmp_path))
    training.config = configured(tmp_path, "train.sync_batchnorm=true").train
    assert [len(labels) for _, labels in training.cut(batch(2, share=0, count=1).shards[0])] == [0]
    assert [len(labels) for _, labels in training.cut(batch(2).shards[0])] == [2]
    assert loss_of(training, batch(2, share=0, count=1)) == 0
    assert all((gradient == 0).all() for gradient in gradients(training))


def test_synchronised_statistics_are_refused_on_cpu(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.sync_batchnorm"):
        started(configured(tmp_path, "train.sync_batchnorm=true"))


def test_gradients_are_clipped(tmp_path: Path) -> None:
    training = started(configured(tmp_path, "train.max_grad_norm=0.01"))
    train_step(training, batch(8))
    assert torch.cat([gradient.flatten() for gradient in gradients(training)]).norm().item() == pytest.approx(
        0.01, rel=1e-3
    )


class HalfUsed(nn.Module):
    """Has a weight that takes no part in the output."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(3, 3)
        self.used = nn.Linear(144, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.used(images.flatten(1))  # type: ignore[no-any-return]


def test_a_weight_without_a_part_in_the_output_is_left_alone(tmp_path: Path) -> None:
    config = configured(tmp_path, "optim.momentum=0.9", "optim.weight_decay=0.5")
    training = started(config, network=HalfUsed())
    before = {name: tensor.clone() for name, tensor in training.network.state_dict().items()}
    train_step(training, batch(8))
    changed = {name for name, tensor in training.network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"used.weight", "used.bias"}
    files = training.files(1, resume.about(config, training.choices, training.world))
    assert set(files["training.pt"]["optimizer_state_dict"]["state"]) == {2, 3}
    again = started(config, network=HalfUsed(), files=files)
    for each in (training, again):
        train_step(each, batch(6))
    assert all(map(torch.equal, training.network.parameters(), again.network.parameters()))


@pytest.mark.parametrize("name", ["sgd", "adam", "radam", "adamax", "asgd", "nadam", "rprop"])
def test_a_checkpoint_of_before_the_first_step_goes_on_like_a_start(tmp_path: Path, name: str) -> None:
    more = ["optim.momentum=0.9", "optim.dampening=0.5"] if name == "sgd" else []
    config = configured(tmp_path, f"optim.name={name}", *more)
    first = started(config)
    files = first.files(1, resume.about(config, first.choices, first.world))
    assert files["training.pt"]["optimizer_state_dict"]["state"] == {}
    second = started(config, files=files)
    for size in (8, 6):
        for training in (first, second):
            train_step(training, batch(size))
    assert all(map(torch.equal, first.network.parameters(), second.network.parameters()))


def test_a_first_step_that_overflows_leaves_no_trace(tmp_path: Path) -> None:
    """In deterministic mode torch fills memory that nobody has written with NaN."""
    training = made(configured(tmp_path, "train.precision=fp16", "optim.momentum=0.9"))
    assert training.scaler is not None
    training.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    training.start(8, SHAPE)
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(40):
            train_step(training, batch(8))
    finally:
        torch.use_deterministic_algorithms(False)
    assert training.optimizer.state
    assert all(bool(weight.isfinite().all()) for weight in training.network.parameters())


def test_dampening_begins_after_the_first_scaled_step(tmp_path: Path) -> None:
    """As without a scaler: torch's first momentum is the whole gradient."""
    training = made(configured(tmp_path, "train.precision=fp16", "optim.momentum=0.9", "optim.dampening=0.5"))
    training.start(8, SHAPE)
    train_step(training, batch(8))
    (flat,) = training.optimizer.param_groups[0]["params"]
    assert flat.grad.count_nonzero() > 0
    assert torch.equal(training.optimizer.state[flat]["momentum_buffer"], flat.grad)


@pytest.mark.parametrize("name", ["sgd", "adam", "adagrad", "asgd", "nadam", "rprop"])
def test_what_is_saved_is_torch_s_own_optimizer(tmp_path: Path, name: str) -> None:
    """However the weights lie here: torch's optimizer over them takes the state, and goes on alike."""
    config = configured(tmp_path, f"optim.name={name}", *(["optim.momentum=0.9"] if name == "sgd" else []))
    training = started(config)
    for size in (8, 6):
        train_step(training, batch(size))
    files = training.files(1, resume.about(config, training.choices, training.world))
    plain = build_model(config.model, SHAPE, 4, 0)
    plain.load_state_dict(files["model.pt"])
    optimizer = build_optimizer(config.optim, plain)
    saved = serialization.decode(bytes(serialization.encode(files["training.pt"])), "training.pt")
    optimizer.load_state_dict(saved["optimizer_state_dict"])
    train_step(training, batch(5))
    for gradient, weight in zip(gradients(training), plain.parameters(), strict=True):
        weight.grad = gradient.contiguous()
    optimizer.step()
    for one, other in zip(training.network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_only_a_better_accuracy_is_the_best(tmp_path: Path) -> None:
    training = started(configured(tmp_path))
    assert [training.is_best(accuracy) for accuracy in (0.0, 0.5, 0.5, 0.4, 0.6)] == [True, True, False, False, True]


def test_a_checkpoint_holds_all_that_the_next_step_needs(tmp_path: Path) -> None:
    config = configured(tmp_path, "optim.momentum=0.9", "train.ema_decay=0.9")
    first = started(config)
    for size in (8, 6):
        first.window.add(loss_of(first, batch(size)), size)
        first.step += 1
    files = first.files(steps_per_epoch=2, about=resume.about(config, first.choices, first.world))
    assert set(files) == {"model.pt", "average.pt", "training.pt"}
    assert set(files["training.pt"]) == NEEDED | {"unused"}  # which those of earlier versions have not
    second = started(config, files=files)
    for training in (first, second):
        train_step(training, batch(5))
    for name, tensor in first.network.state_dict().items():
        assert torch.equal(second.network.state_dict()[name], tensor)
        assert torch.equal(second.evaluated.state_dict()[name], first.evaluated.state_dict()[name])
        assert not torch.equal(second.evaluated.state_dict()[name], tensor)


def test_a_changed_argument_of_the_optimizer_is_taken(tmp_path: Path) -> None:
    config = configured(tmp_path, "optim.momentum=0.9")
    first = started(config)
    train_step(first, batch(4))
    files = first.files(1, resume.about(config, first.choices, first.world))
    second = made(configured(tmp_path, "optim.momentum=0.5", "optim.weight_decay=0.1"))
    second.restore(files)
    assert (second.optimizer.param_groups[0]["momentum"], second.optimizer.param_groups[0]["weight_decay"]) == (
        0.5,
        0.1,
    )
    assert len(second.optimizer.state) == len(list(second.network.parameters()))


@pytest.mark.parametrize(
    ("before", "changed"),
    [
        ("adam", {"amsgrad": "true"}),
        ("rmsprop", {"momentum": "0.9", "centered": "true"}),
        ("sgd", {"momentum": "0.9"}),
    ],
)
def test_an_argument_that_keeps_more_state_is_taken(tmp_path: Path, before: str, changed: dict[str, str]) -> None:
    config = configured(tmp_path, f"optim.name={before}")
    first = started(config)
    train_step(first, batch(4))
    files = first.files(1, resume.about(config, first.choices, first.world))
    more = [f"optim.{name}={value}" for name, value in changed.items()]
    second = started(configured(tmp_path, f"optim.name={before}", *more), files=files)
    weights = [weight.clone() for weight in second.network.parameters()]
    train_step(second, batch(4))
    assert all(not torch.equal(*pair) for pair in zip(weights, second.network.parameters(), strict=True))


def test_a_checkpoint_of_another_network_names_what_differs(tmp_path: Path) -> None:
    config = configured(tmp_path)
    training = started(config)
    files = training.files(1, resume.about(config, training.choices, training.world))
    files["model.pt"]["output.weight"] = torch.zeros(4, 7)
    del files["model.pt"]["conv2.0.bias"]
    with pytest.raises(CheckpointError, match=r"conv2\.0\.bias.*output\.weight"):
        started(config).restore(files)
