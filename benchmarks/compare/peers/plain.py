"""Plain PyTorch: the loop of its MNIST example, on several ranks with its DistributedDataParallel tutorial."""

from typing import Any

import torch
import torch.distributed as dist
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from benchmarks.compare import builders
from benchmarks.compare.peers.options import Options, parse_options


def main() -> None:
    options = parse_options()
    rank = 0
    if options.ranks > 1:
        dist.init_process_group("nccl" if options.device == "cuda" else "gloo")
        rank = dist.get_rank()
    train(options, rank, options.torch_device())
    if options.ranks > 1:
        dist.barrier()
        dist.destroy_process_group()


def train(options: Options, rank: int, device: torch.device) -> None:
    dataset = builders.open_dataset(options.workload)
    sampler: DistributedSampler[Any] | None = DistributedSampler(dataset) if options.ranks > 1 else None
    pin = device.type == "cuda"
    loader = DataLoader(
        dataset, options.batch, shuffle=sampler is None, sampler=sampler, num_workers=options.workers, pin_memory=pin
    )
    model = builders.build_network(options.workload).to(device)
    if options.ranks > 1:
        model = DistributedDataParallel(model)
    optimizer = builders.build_optimizer(options.workload, model.parameters())
    model.train()
    step = epoch = 0
    while step < options.steps:
        if sampler:
            sampler.set_epoch(epoch)
        for data, target in loader:
            data, target = data.to(device), target.to(device)
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=options.autocast == "bf16"):
                loss = functional.cross_entropy(model(data), target)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
            if rank == 0 and options.is_logged(step):
                options.log_step(step, loss.item())
            if step == options.steps:
                break
        epoch += 1


if __name__ == "__main__":
    main()
