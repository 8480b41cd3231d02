"""Time an all_reduce and check its result, under torchrun.

torchrun --nproc_per_node=1 -m benchmarks.gpu.group nccl ANSWER.json
"""

import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist


def main() -> None:
    backend, answer = sys.argv[1:]
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if backend == "nccl" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, device_id=device if device.type == "cuda" else None)
    found = [_all_reduce(device) for _ in range(11)][1:]
    if dist.get_rank() == 0:
        Path(answer).write_text(json.dumps(found), encoding="utf-8")
    dist.barrier(device_ids=[device.index] if device.type == "cuda" else None)
    dist.destroy_process_group()


def _all_reduce(device: torch.device) -> float:
    numbers = torch.ones(2**24, device=device)
    _wait(device)
    start = time.perf_counter()
    dist.all_reduce(numbers)
    _wait(device)
    took = 1000 * (time.perf_counter() - start)
    if not bool((numbers == dist.get_world_size()).all()):
        raise ValueError("the all_reduce has not summed the ones of all ranks")
    return took


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
