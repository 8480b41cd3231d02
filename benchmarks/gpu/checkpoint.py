"""What a step waits for a checkpoint, and plain copies of as many tensors."""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.compare import builders
from benchmarks.compare.workloads import Workload
from benchmarks.gpu import speed
from benchmarks.gpu.speed import Setup
from benchmarks.rounds import Spread
from dist_train.distributed.world import open_world
from dist_train.train import train
from dist_train.training.reporter import MainReporter


def stall(workload: Workload, setup: Setup, *overrides: str) -> Spread:
    """Milliseconds that the steps after a save take longer than as many others; only the host's clock is read."""
    every, steps, window = (50, 310, 5) if setup.on_gpu else (3, 13, 1)
    config = speed.load_settings(
        workload, setup, "train.precision=auto", f"checkpoint.every_steps={every}",
        f"train.max_steps={steps}", "checkpoint.keep_last=1", "checkpoint.keep_best=false",
        "log.weights_every_steps=1000000", *overrides,
        *([] if setup.on_gpu else ["data.global_batch=4"]),
    )  # fmt: skip
    ended, count_step = dict[int, float](), MainReporter.count_step

    def count_and_time(self: MainReporter) -> None:
        """In place of `MainReporter.count_step`, which is called after each step, before it is saved."""
        count_step(self)
        ended[self._state.step] = time.perf_counter()

    MainReporter.count_step = count_and_time  # type: ignore[method-assign]
    try:
        train(config, open_world(config.distributed, {}))
    finally:
        MainReporter.count_step = count_step  # type: ignore[method-assign]
    took = {step: ended[step + window] - ended[step] for step in range(every, steps - window)}
    usual = statistics.median(seconds for step, seconds in took.items() if window <= step % every <= every - window)
    return Spread.of(1000 * (seconds - usual) for step, seconds in took.items() if step % every == 0)


def state(workload: Workload, setup: Setup) -> list[torch.Tensor]:
    """Parameters, statistics and momentum of a network on the device."""
    network = builders.build_network(workload).to(setup.device)
    momentum = [torch.zeros_like(parameter) for parameter in network.parameters()]
    return [*(tensor.detach() for tensor in network.state_dict().values()), *momentum]


def time_calls(setup: Setup, do: Callable[[], object], times: int = 5) -> Spread:
    """Milliseconds of each call; the first is not counted."""
    found = []
    for _ in range(times + 1):
        setup.wait()
        start = time.perf_counter()
        do()
        setup.wait()
        found.append(1000 * (time.perf_counter() - start))
    return Spread.of(found[1:])


def save(tensors: Sequence[torch.Tensor], path: Path) -> None:
    with path.open("wb") as file:
        torch.save(list(tensors), file)
        file.flush()
        os.fsync(file.fileno())
