"""The bare step: forward, backward and optimizer step on one fixed batch, again and again.

    python -m benchmarks.compare.programs.bare_step mnist --steps 250 --readings FILE
    torchrun --nproc_per_node=2 -m benchmarks.compare.programs.bare_step mnist --steps 250 --readings FILE \\
        --choices '{"precision": "bf16"}'
    python -m benchmarks.compare.programs.bare_step mnist --steps 50 --operators FILE

Without `--choices` in plain fp32 and torch's own format, as a lesson writes it. With them in the precision, memory
format and threads that a run of ours has chosen (`choices` of its `env.json`), with its allocator, its fast layers and
the fused update.
With `--operators` the steps are profiled, and FILE gets the `Profile`.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.compare import builders
from benchmarks.compare.peers.options import Options
from benchmarks.compare.workloads import WORKLOADS
from dist_train.execution.auto_settings import use_onednn
from dist_train.execution.cpu_layers import use_fast_cpu_layers
from dist_train.system.allocator import keep_freed_memory

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Profile:
    """Where the time of a step on the CPU goes."""

    seconds: float
    """Median of a step without the profiler."""
    flops: int
    """Operations of its convolutions and matrix products, counted by torch."""
    operators: dict[str, float]
    """Seconds a step in each operator of torch, without the operators it calls; the profiler adds some time."""


def main() -> None:
    options, choices, operators = _parse()
    if choices:
        keep_freed_memory()
    if options.ranks > 1:
        dist.init_process_group("nccl" if options.device == "cuda" else "gloo")
    if "threads" in choices:
        torch.set_num_threads(choices["threads"])
    step = build_step(options, choices, options.torch_device())
    if operators is None:
        run(options, step)
    else:
        operators.write_text(json.dumps(asdict(profile_steps(step, options.steps))), encoding="utf-8")
    if options.ranks > 1:
        dist.barrier()
        dist.destroy_process_group()


def run(options: Options, step: Callable[[], Tensor]) -> None:
    """Run the steps; rank 0 logs at the same steps as the peers."""
    for number in range(1, options.steps + 1):
        loss = step()
        if options.is_logged(number):
            _log(options, number, loss)


def profile_steps(step: Callable[[], Tensor], steps: int) -> Profile:
    """Profile some steps, after as many to warm up and as many to time."""
    for _ in range(steps):
        step()
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        step().item()
        seconds.append(time.perf_counter() - start)
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as found:
        for _ in range(steps):
            step()
    operators = {event.key: event.self_cpu_time_total / 1e6 / steps for event in found.key_averages()}
    with FlopCounterMode(display=False) as counter:
        step()
    return Profile(statistics.median(seconds), counter.get_total_flops(), operators)


def build_step(options: Options, choices: dict[str, Any], device: torch.device) -> Callable[[], Tensor]:
    """A function that runs a step, always on the same batch, and returns its loss, float [].

    Args:
        choices: of a run of ours; empty for a plain step.
    """
    memory_format = torch.channels_last if choices.get("channels_last") else torch.contiguous_format
    use_onednn(choices.get("onednn", True))
    network = builders.build_network(options.workload).to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
    if choices:
        use_fast_cpu_layers(network)
    optimizer = builders.build_optimizer(options.workload, network.parameters(), **({"fused": True} if choices else {}))
    model = _wrap(network, options, device, as_ours=bool(choices))
    images, labels = builders.random_batch(options.workload, options.batch)
    images, labels = images.to(device, memory_format=memory_format), labels.to(device)
    dtype = TYPES.get(choices.get("precision", ""))

    def step() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            loss = functional.cross_entropy(model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss

    return step


def _wrap(network: nn.Module, options: Options, device: torch.device, as_ours: bool) -> nn.Module:
    if options.ranks == 1:
        return network
    ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=ids, gradient_as_bucket_view=as_ours)


def _log(options: Options, step: int, loss: Tensor) -> None:
    number = loss.item()
    if os.environ.get("RANK", "0") == "0":
        options.log_step(step, number)


def _parse() -> tuple[Options, dict[str, Any], Path | None]:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare.programs.bare_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--readings", type=Path)
    parser.add_argument("--choices", type=json.loads, default={})
    parser.add_argument("--operators", type=Path)
    given = parser.parse_args()
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    options = Options(WORKLOADS[given.workload], given.steps, 0, "no", given.device, ranks, True, given.readings)
    return options, given.choices, given.operators


if __name__ == "__main__":
    main()
