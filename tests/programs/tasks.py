"""One rank of `test_tasks`: the loss and gradient of unequal shares, and an evaluation, of each task and loss.

    torchrun ... -m tests.programs.tasks CASES.json RESULT.json          (or plain python, for a world of one)

CASES.json: {"settings": a file of settings, "cases": [{"overrides": [...], "samples": a kind of samples}, ...]}.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dist_train.data.batches import Batch, Pass, Shard
from dist_train.data.sampler import cut_size
from dist_train.distributed.ddp import DDPReduction
from dist_train.distributed.reduction import LOSS_SUM, GradientReduction, SingleProcess
from dist_train.distributed.world import World, open_world
from dist_train.execution.auto_settings import Convolutions, decide
from dist_train.settings.loader import load_config
from dist_train.settings.schema import Config, Distributed
from dist_train.system.exit import leave, run_guarded
from dist_train.tasks import Task, build_task
from dist_train.train import train_step
from dist_train.training.state import TrainState

COUNTS = (10, 7, 2, 1)
"""Samples of global batches: at 3 and 4 ranks shares are unequal, and of the small ones some rank has none."""
CLASSES, MICRO_BATCH, EVAL_BATCH, EVAL_SAMPLES = 5, 2, 4, 23

Draw = Callable[[int, torch.Generator], Tensor]
SAMPLES: dict[str, Draw] = {
    "labels": lambda count, random: torch.randint(0, CLASSES, (count,), generator=random),
    "shares": lambda count, random: torch.rand(count, CLASSES, generator=random, dtype=torch.float64).softmax(1),
    "numbers": lambda count, random: torch.randn(count, CLASSES, generator=random, dtype=torch.float64),
    "several": lambda count, random: torch.randint(0, 2, (count, CLASSES), generator=random),
}
"""Targets by kind."""


class Net(nn.Module):
    """One layer, whose output is a tensor or in a dict."""

    def __init__(self, dtype: torch.dtype, in_dict: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(3, CLASSES, dtype=dtype)
        self._in_dict = in_dict

    def forward(self, inputs: Tensor) -> Any:
        output = self.layer(inputs)
        return {"logits": output, "loss": output.square().mean(), "each": output.square().mean(1)} if self._in_dict else output


def draw_samples(kind: str, count: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs, [count, 3], and targets; the same on every rank."""
    random = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 3, generator=random, dtype=torch.float64).to(dtype)
    targets = SAMPLES[kind](count, random)
    return inputs, targets.to(dtype) if targets.is_floating_point() else targets


def open_task(config: Config, network: nn.Module, kind: str, world: World) -> Task:
    task = build_task(config, tuple(f"class {number}" for number in range(CLASSES)), world)
    weight = next(network.parameters())
    inputs, targets = draw_samples(kind, 2, weight.dtype)
    task.try_out(network(inputs), targets, 2)
    return task


def cut_share(inputs: Tensor, targets: Tensor, world: World, count: int) -> Batch:
    """This rank's part of a global batch, in passes of at most two samples; placeholders where it has none."""
    shares = [len(part) for part in torch.arange(count).tensor_split(world.size)]
    start, own = sum(shares[: world.rank]), shares[world.rank]
    numbers = torch.arange(start, start + own) if own else torch.zeros(2, dtype=torch.int64)
    passes = tuple(
        Pass(inputs[part], targets[part], len(part)) for part in torch.split(numbers, cut_size(len(numbers), MICRO_BATCH))
    )
    shard = Shard(passes, own, world.rank, numbers[:own])
    return Batch((shard,), count, step=0, epoch=0, samples=torch.arange(count))


def make_step(config: Config, kind: str, world: World, count: int) -> dict[str, Any]:
    """Return the loss of one global batch, and the gradient of its mean."""
    network = Net(torch.float64, in_dict=config.loss.output is not None or "output." in str(config.loss.name))
    settings = decide(config.train, config.distributed, world, Convolutions(0, 64, 64), None)
    state = TrainState(config, network, settings, world)
    task = open_task(config, network, kind, world)
    inputs, targets = draw_samples(kind, 2, torch.float64)
    reduction: GradientReduction = SingleProcess(network, network, world)
    if world.size > 1:
        reduction = DDPReduction(network, network, world, lambda model: task.loss_sum(model(inputs), targets, 2))
    batch = cut_share(*draw_samples(kind, count, torch.float64, seed=count), world, count)
    scalars, _ = train_step(state, reduction, task, batch, config)
    gradients = [gradient.tolist() for gradient in reduction.gradients()]
    return {"loss": scalars[LOSS_SUM].item() / count, "gradients": gradients}


def make_evaluation(config: Config, kind: str, world: World) -> dict[str, Any]:
    """Return the line of an evaluation in float32, whose sums are rounded."""
    network = Net(torch.float32, in_dict=config.loss.output is not None or "output." in str(config.loss.name))
    task = open_task(config, network, kind, world)
    inputs, targets = draw_samples(kind, EVAL_SAMPLES, torch.float32, seed=99)
    parts = list(zip(inputs.split(EVAL_BATCH), targets.split(EVAL_BATCH), strict=True))
    sums = task.open_evaluation(len(parts), world.device)
    for number in range(world.rank, len(parts), world.size):
        with torch.no_grad():
            sums.add(number, network(parts[number][0]), parts[number][1], len(parts[number][0]))
    sums.reduce(world)
    return sums.result("test").to_dict()


def main() -> None:
    about = json.loads(Path(sys.argv[1]).read_text())
    world = open_world(Distributed(backend="gloo"))
    results = []
    for case in about["cases"]:
        config = load_config(Path(about["settings"]), case["overrides"])
        steps = [make_step(config, case["samples"], world, count) for count in COUNTS]
        results.append({"steps": steps, "evaluation": make_evaluation(config, case["samples"], world)})
    if world.is_main:
        Path(sys.argv[2]).write_text(json.dumps(results))
    world.close()


if __name__ == "__main__":
    leave(run_guarded(main))
