"""Evaluate the test split several times as PyTorch's MNIST example does, with the best number of workers.

    python -m benchmarks.compare.peers.evaluation mnist --steps 4 --readings FILE [--autocast bf16]

`--steps` is the number of passes. FILE gets a line with the `seconds` of each pass but the first.
"""

import json
import time

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from benchmarks.compare import builders
from benchmarks.compare.peers.options import Options, parse_options

BATCH = 1000
"""As in the example."""
COUNTS = (0, 1, 2)


def main() -> None:
    options = parse_options()
    device = options.torch_device()
    model = builders.build_network(options.workload).to(device)
    dataset = builders.open_dataset(options.workload, train=False)
    loaders = [DataLoader(dataset, BATCH, num_workers=count) for count in COUNTS]
    evaluate(model, loaders[0], options, device)  # warm-up
    seconds = [time_pass(model, loader, options, device) for loader in loaders]
    best = loaders[seconds.index(min(seconds))]
    lines = [json.dumps({"seconds": time_pass(model, best, options, device)}) + "\n" for _ in range(options.steps - 1)]
    if options.readings:
        options.readings.write_text("".join(lines), encoding="utf-8")


def time_pass(model: nn.Module, loader: "DataLoader[object]", options: Options, device: torch.device) -> float:
    """Seconds of one pass."""
    start = time.perf_counter()
    evaluate(model, loader, options, device)
    return time.perf_counter() - start


def evaluate(
    model: nn.Module, loader: "DataLoader[object]", options: Options, device: torch.device
) -> tuple[float, int]:
    """Mean loss and the number of correct predictions."""
    model.eval()
    loss, correct = 0.0, 0
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=options.autocast == "bf16"):
        for data, target in loader:
            data, target = data.to(device), target.to(device)
            output = model(data)
            loss += functional.cross_entropy(output, target, reduction="sum").item()
            pred = output.argmax(dim=1, keepdim=True)
            correct += int(pred.eq(target.view_as(pred)).sum().item())
    return loss / len(loader.dataset), correct  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
