"""One rank of `test_task`: a step and an evaluation of every case, whose results rank 0 writes.

torchrun ... -m tests.programs.tasks DIRECTORY
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from dist_train.data.batches import Batch, Pass, Shard
from dist_train.data.sampler import cut_size
from dist_train.distributed.ddp import DDPReduction
from dist_train.distributed.reduction import SingleProcess
from dist_train.distributed.world import World, open_world
from dist_train.execution.auto_settings import Convolutions, decide
from dist_train.settings.schema import Distributed
from dist_train.system.exit import leave, run_guarded
from dist_train.tasks import build_task
from dist_train.train import train_step
from dist_train.training.state import TrainState
from tests.unit.dist_train.tasks.cases import CASES, Net, configure, make_samples

COUNTS = (10, 3)
"""Samples of a global batch: unequal shares, and at four ranks one without a sample."""
SPLIT, BATCH, MICRO_BATCH = 23, 5, 2


def run_case(directory: Path, name: str, world: World) -> dict[str, Any]:
    config = configure(directory, name)
    settings = decide(config.train, config.distributed, world, Convolutions(10**6, 64, 64), None)
    task = build_task(config, (), world)
    inputs, targets = make_samples(name, 2)
    task.try_out(Net(CASES[name])(inputs), targets, 2)
    results: dict[str, Any] = {"steps": []}
    for count in COUNTS:
        state = TrainState(config, Net(CASES[name]), settings, world)
        if world.size == 1:
            reduction: Any = SingleProcess(state.network, state.network, world)
        else:
            reduction = DDPReduction(
                state.network, state.network, world, lambda model: task.loss_sum(model(inputs), targets, 2)
            )
        scalars, _ = train_step(state, reduction, task, make_part(name, count, world), config)
        gradients = torch.cat([gradient.flatten() for gradient in reduction.gradients()])
        results["steps"].append({"loss": scalars[0].item() / count, "gradients": gradients.tolist()})
    results["evaluation"] = evaluate(name, task, world)
    return results


def make_part(name: str, count: int, world: World) -> Batch:
    """This rank's part of a global batch; of a rank without a sample a placeholder."""
    inputs, targets = (part.tensor_split(world.size)[world.rank] for part in make_samples(name, count))
    own = len(inputs)
    if not own:
        inputs, targets = (part[:1] for part in make_samples(name, count))
    sizes = cut_size(len(inputs), MICRO_BATCH)
    passes = tuple(map(Pass, torch.split(inputs, sizes), torch.split(targets, sizes), sizes))
    shard = Shard(passes, own, world.rank, torch.arange(own))
    return Batch((shard,), count, 0, 0, torch.arange(count))


def evaluate(name: str, task: Any, world: World) -> dict[str, Any]:
    inputs, targets = make_samples(name, SPLIT)
    network = Net(CASES[name]).eval()
    starts = range(0, SPLIT, BATCH)
    sums = task.open_evaluation(len(starts), world.device)
    for number in range(world.rank, len(starts), world.size):
        part = slice(starts[number], starts[number] + BATCH)
        sums.add(number, network(inputs[part]), targets[part], len(inputs[part]))
    sums.reduce(world)
    return sums.result("test").to_dict()  # type: ignore[no-any-return]


def main() -> None:
    directory = Path(sys.argv[1])
    world = open_world(Distributed(backend="gloo"))
    torch.set_num_threads(1)
    results = {name: run_case(directory, name, world) for name in CASES}
    (directory / f"{world.rank}.json").write_text(json.dumps(results))
    world.close()


if __name__ == "__main__":
    leave(run_guarded(main))
