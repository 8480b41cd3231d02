"""PyTorch alone: the loop of its MNIST example, and of its DistributedDataParallel tutorial where there are ranks."""

from typing import Any

import torch
import torch.distributed as dist
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from benchmarks.compare import material
from benchmarks.compare.peers.order import Order, parse_order


def main() -> None:
    order = parse_order()
    rank = 0
    if order.ranks > 1:
        dist.init_process_group("nccl" if order.device == "cuda" else "gloo")
        rank = dist.get_rank()
    train(order, rank, order.torch_device())
    if order.ranks > 1:
        dist.barrier()
        dist.destroy_process_group()


def train(order: Order, rank: int, device: torch.device) -> None:
    dataset = material.dataset(order.work)
    sampler: DistributedSampler[Any] | None = DistributedSampler(dataset) if order.ranks > 1 else None
    pin = device.type == "cuda"
    loader = DataLoader(
        dataset, order.batch, shuffle=sampler is None, sampler=sampler, num_workers=order.workers, pin_memory=pin
    )
    model = material.network(order.work).to(device)
    if order.ranks > 1:
        model = DistributedDataParallel(model)
    optimizer = material.optimizer(order.work, model.parameters())
    model.train()
    step = epoch = 0
    while step < order.steps:
        if sampler:
            sampler.set_epoch(epoch)
        for data, target in loader:
            data, target = data.to(device), target.to(device)
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=order.autocast == "bf16"):
                loss = functional.cross_entropy(model(data), target)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
            if rank == 0 and order.is_read(step):
                order.read_clock(step, loss.item())
            if step == order.steps:
                break
        epoch += 1


if __name__ == "__main__":
    main()
