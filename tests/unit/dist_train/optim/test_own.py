"""The user's optimizers and schedules, by reference: what works, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dist_train.errors import CheckpointError, ConfigError, OwnCodeError
from dist_train.optim.build import build_optimizer, check_storable, make_step
from dist_train.optim.load import load_optimizer
from dist_train.optim.lr_schedule import LrSchedule
from dist_train.settings.schema.optim import OwnOptim

CODE = """
import torch
from torch.optim import SGD, Optimizer

class Lion(Optimizer):
    def __init__(self, parameters, lr, betas=(0.9, 0.99), weight_decay=0.0, block=4):
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state.update(exp_avg=torch.zeros_like(p), seen=[0, (torch.zeros(3), "a")], is_new=True)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_((state["exp_avg"] * group["betas"][0]).lerp(p.grad, 0.5).sign(), alpha=-group["lr"])
                state["exp_avg"].lerp_(p.grad, 1 - group["betas"][1])
                state["seen"][0] += 1

def make(parameters, lr, momentum):
    return SGD(parameters, lr=lr, momentum=momentum)

class Closure(SGD):
    def step(self, closure):
        closure()

class Merges(SGD):
    def __init__(self, groups, lr):
        super().__init__([p for group in groups for p in group["params"]], lr=lr)

class WithoutLr(Lion):
    def __init__(self, parameters, lr):
        Optimizer.__init__(self, parameters, {"rate": lr})

class Raises(Lion):
    def __init__(self, parameters, lr):
        raise RuntimeError("in Raises")

class RaisesLater(Lion):
    def step(self):
        self.helper()

    def helper(self):
        raise RuntimeError("in a step")

class KeepsASet(Lion):
    def step(self):
        self.state[self.param_groups[0]["params"][0]]["seen"] = {1, 2}

class NoOptimizer:
    def __init__(self, parameters, lr):
        pass

number = 3

def half(step, total_steps):
    return 1 - 0.5 * step / total_steps

def negative(step, total_steps):
    return -1

def text(step, total_steps):
    return "0.5"

def later(step, total_steps):
    return float("nan") if step > 3 else 1

def fails(step, total_steps):
    return 1 / abs(step - 2)
"""


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., OwnOptim]:
    path = tmp_path / "own_optim.py"
    path.write_text(CODE)

    def make(name: str, schedule: str | None = None, **settings: Any) -> OwnOptim:
        more = {"schedule": f"{path}:{schedule}"} if schedule else {}
        return OwnOptim.model_validate({"name": f"{path}:{name}", "lr": 0.1, **more, **settings})

    return make


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def train(model: nn.Module, step: Callable[[], object], count: int) -> None:
    for _ in range(count):
        model.zero_grad()
        model(torch.linspace(-1, 1, 12).view(4, 3)).square().sum().backward()
        step()


@pytest.mark.parametrize("name", ["Lion", "make"])
def test_it_trains_and_continues(configure: Callable[..., OwnOptim], name: str) -> None:
    arguments = {"Lion": {"betas": [0.8, 0.9]}, "make": {"momentum": 0.9}}[name]
    groups = ({"match": ("*.bias",), "lr": 0.01, "args": {"weight_decay": 0.5}},)
    config = configure(name, args=arguments, groups=groups)
    first = network()
    optimizer = build_optimizer(config, first)
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.1, 0.0), (0.01, 0.5)]
    train(first, make_step(optimizer, config.name), 3)
    check_storable(optimizer, config.name)
    second = network()
    second.load_state_dict(first.state_dict())
    resumed = build_optimizer(config, second)
    load_optimizer(resumed, optimizer.state_dict(), step=3)
    for model, its in ((first, optimizer), (second, resumed)):
        train(model, make_step(its, config.name), 2)
    assert all(map(torch.equal, first.parameters(), second.parameters()))
    assert not torch.equal(first[0].weight, network()[0].weight)  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("number", {}, "own_optim.py:number: is a int, and no class or function"),
        ("Lyon", {}, "own_optim.py has no Lyon"),
        ("Lion", {"args": {"beta": 1}}, "Lion in {path} has no argument beta; did you mean betas?"),
        ("Lion", {"args": {"lr": 1}}, "Lion in {path} gets lr from the program; remove it from args"),
        ("make", {}, "make in {path} needs the argument momentum; add it to args"),
        ("NoOptimizer", {}, "NoOptimizer: is a NoOptimizer, and no torch.optim.Optimizer"),
        ("Closure", {}, "Closure: its step needs a closure, and the backward pass is made before the step here"),
        ("WithoutLr", {}, "WithoutLr: has no lr in its groups, which a schedule could change"),
        (
            "Merges",
            {"groups": ({"match": ("*.bias",), "lr": 0.2},)},
            "has 1 groups that are not the 2 that it was",
        ),
        (
            "Lion",
            {"groups": ({"match": ("*.bias",), "args": {"block": 2}},)},
            "optim.groups: sets block, which no group of optim.name {path}:Lion has; it has lr, betas, weight_decay",
        ),
    ],
)
def test_what_is_refused(
    configure: Callable[..., OwnOptim], name: str, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as refusal:
        build_optimizer(configure(name, **settings), network())
    assert message.replace("{path}", str(tmp_path / "own_optim.py")) in str(refusal.value)
    assert "CodeFault" not in str(refusal.value)


@pytest.mark.parametrize("name", ["torch.optim:LBFGS", "torch.optim:Adam"])
def test_a_reference_may_lead_to_torch(name: str) -> None:
    config = OwnOptim.model_validate({"name": name, "lr": 0.1})
    if name.endswith("LBFGS"):
        with pytest.raises(ConfigError, match="its step needs a closure"):
            build_optimizer(config, network())
        return
    optimizer = build_optimizer(config, network())
    assert type(optimizer) is torch.optim.Adam
    spoiled = {**optimizer.state_dict(), "state": {0: {"exp_avg": torch.zeros(1), "step": torch.zeros(())}}}
    with pytest.raises(CheckpointError, match="exp_avg of parameter 0"):
        load_optimizer(optimizer, spoiled, step=1)


def test_an_optimizer_of_sparse_gradients_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"torch\.optim:SparseAdam: needs sparse gradients, which ranks can't add up"):
        build_optimizer(OwnOptim.model_validate({"name": "torch.optim:SparseAdam", "lr": 0.1}), network())


def test_its_errors_are_shown_as_the_user_s(configure: Callable[..., OwnOptim]) -> None:
    with pytest.raises(OwnCodeError, match=r"(?s)Raises failed:.*own_optim\.py.*RuntimeError: in Raises") as error:
        build_optimizer(configure("Raises"), network())
    assert "dist_train/optim" not in str(error.value)
    config, model = configure("RaisesLater"), network()
    step = make_step(build_optimizer(config, model), config.name)
    with pytest.raises(OwnCodeError, match=r"(?s)RaisesLater: a step failed:.*in helper.*RuntimeError: in a step"):
        train(model, step, 1)


def test_a_state_that_no_checkpoint_can_hold_is_refused_when_it_is_to_be_saved(
    configure: Callable[..., OwnOptim],
) -> None:
    config, model = configure("KeepsASet"), network()
    optimizer = build_optimizer(config, model)
    train(model, make_step(optimizer, config.name), 1)
    with pytest.raises(ConfigError, match="KeepsASet: its state has a set, which a checkpoint can't hold"):
        check_storable(optimizer, config.name)


def test_a_schedule_is_a_factor_on_the_rate_of_each_group(configure: Callable[..., OwnOptim]) -> None:
    config = configure("Lion", schedule="half", warmup_epochs=2.0)
    rates = LrSchedule(config, steps_per_epoch=2, total_steps=10)
    found = [rates.lr_at(step, 0.3, config.schedule) for step in range(10)]
    assert found == pytest.approx([min(1, (step + 1) / 4) * 0.3 * (1 - 0.05 * step) for step in range(10)])


@pytest.mark.parametrize(
    ("name", "step", "message"),
    [
        ("negative", 0, r"own_optim\.py:negative: returned -1 for step 0 of 10; it must be a number of at least 0"),
        ("text", 0, r"own_optim\.py:text: returned '0\.5' for step 0"),
        ("later", 4, r"own_optim\.py:later: returned \.?nan for step 4"),
        ("number", 0, r"own_optim\.py:number: is a int, and no function"),
        ("halve", 0, r"own_optim\.py has no halve"),
    ],
)
def test_a_schedule_that_is_refused(configure: Callable[..., OwnOptim], name: str, step: int, message: str) -> None:
    config = configure("Lion", schedule=name)
    with pytest.raises(ConfigError, match=message):
        LrSchedule(config, 2, 10).lr_at(step, 0.3, config.schedule)


def test_a_schedule_that_raises_shows_the_user_s_own_lines(configure: Callable[..., OwnOptim]) -> None:
    config = configure("Lion", schedule="fails")
    with pytest.raises(OwnCodeError, match=r"(?s)fails at step 2 failed:.*own_optim\.py.*ZeroDivisionError"):
        LrSchedule(config, 2, 10).lr_at(2, 0.3, config.schedule)
