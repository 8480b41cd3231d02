"""Train with DistributedDataParallel on one GPU: a rank alone over NCCL, or several over Gloo.

`dist_train` itself never does that; so the paths of several GPUs are tried where there is one.

    torchrun --nproc_per_node=2 -m benchmarks.gpu.ddp gloo cuda CONFIG [key=value ...]
"""

import os
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from benchmarks.compare.session import torchrun
from benchmarks.gpu.speed import Setup
from benchmarks.processes import run
from dist_train.distributed.ddp import DDPReduction
from dist_train.distributed.world import World
from dist_train.monitoring.metrics import read_lines
from dist_train.settings.loader import load_config
from dist_train.system.exit import leave, run_guarded
from dist_train.train import train
from dist_train.training import setup

SHAPE = (3, 32, 32)


def main() -> None:
    backend, place, name, *overrides = sys.argv[1:]
    config = load_config(name, overrides)
    device = torch.device("cuda", 0) if place == "cuda" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, device_id=device if backend == "nccl" else None)
    rank, size = dist.get_rank(), dist.get_world_size()
    world = World(rank, size, int(os.environ["LOCAL_RANK"]), size, device, backend)

    def reduce_alone(model: nn.Module, network: nn.Module, world: World) -> DDPReduction:
        images = torch.zeros(2, *SHAPE, device=device)
        return DDPReduction(model, network, world, lambda model: model(images).sum())

    setup.SingleProcess = reduce_alone  # type: ignore[assignment, attr-defined]
    train(config, world)
    world.close()


def train_by(backend: str, ranks: int, setup: Setup, *, compiled: bool) -> list[float]:
    """The losses of 12 steps by torchrun and `benchmarks.gpu.ddp`; without a backend of one process."""
    directory = Path(tempfile.mkdtemp(dir=setup.folder))
    path = directory / "ddp.yaml"
    path.write_text(
        f"data: {{name: synthetic, shape: {list(SHAPE)}, num_train: 384, num_test: 64, global_batch: 32}}\n"
        "model: {name: cifar_tutorial}\noptim: {name: sgd, lr: 0.02, momentum: 0.9}\n"
        "train: {max_steps: 12, precision: fp32}\nlog: {every_steps: 1, tensorboard: false}\n",
        encoding="utf-8",
    )
    place = setup.device.type
    asked = [str(path), f"run.dir={directory / 'run'}", f"data.cache={setup.folder / 'cache'}", "distributed.threads=1"]
    asked += ["train.compile=model"] * compiled + ["distributed.backend=gloo"] * (place == "cpu")
    command = ["-m", "benchmarks.gpu.ddp", backend, place] if backend else ["-m", "dist_train"]
    run([*(torchrun(sys.executable, ranks) if backend else [sys.executable]), *command, *asked], timeout=60)
    return [line["loss"] for line in read_lines(directory / "run" / "metrics.jsonl") if line["kind"] == "train"]


if __name__ == "__main__":
    leave(run_guarded(main))
