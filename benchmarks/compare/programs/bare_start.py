"""A minimal DDP script, for comparison with the start of `dist_train`.

    torchrun --nproc_per_node=2 -m benchmarks.compare.programs.bare_start FILE

One step of a small convolutional network on a random batch. Rank 0 writes its time to FILE, as a line of JSON.
"""

import json
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def main() -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    model = DistributedDataParallel(network())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.5)
    loss = nn.functional.cross_entropy(model(torch.rand(32, 1, 28, 28)), torch.zeros(32, dtype=torch.long))
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps({"step": 1, "time": time.time()}) + "\n", encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


def network() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10)),
    )


if __name__ == "__main__":
    main()
