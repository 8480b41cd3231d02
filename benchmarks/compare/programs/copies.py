"""The least that a checkpoint costs: a copy of ResNet-18's parameters and momentum, and a plain save to disk.

    python -m benchmarks.compare.programs.copies FILE DIRECTORY

FILE gets a line a turn with the seconds of each; the save goes to DIRECTORY.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.compare import builders
from benchmarks.compare.workloads import WORKLOADS

TURNS = 6
"""The first is not counted."""


def main() -> None:
    network = builders.build_network(WORKLOADS["resnet"])
    optimizer = builders.build_optimizer(WORKLOADS["resnet"], network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    state = {"model": network.state_dict(), "optimizer": optimizer.state_dict()}
    tensors = list(tensors_of(state))
    buffers = [torch.empty_like(tensor) for tensor in tensors]
    path = Path(sys.argv[2]) / "plain.pt"
    ways: dict[str, Callable[[], object]] = {
        "copy": lambda: [old.copy_(new) for old, new in zip(buffers, tensors, strict=True)],
        "clone": lambda: [tensor.clone() for tensor in tensors],
        "save": lambda: save(state, path),
    }
    turns = [{name: time_once(way) for name, way in ways.items()} for _ in range(TURNS)]
    Path(sys.argv[1]).write_text("".join(json.dumps(turn) + "\n" for turn in turns[1:]), encoding="utf-8")


def tensors_of(content: Any) -> list[Tensor]:
    """All tensors of nested dictionaries and lists."""
    if isinstance(content, Tensor):
        return [content.detach()]
    if isinstance(content, dict):
        content = list(content.values())
    return [tensor for each in content for tensor in tensors_of(each)] if isinstance(content, list) else []


def save(state: dict[str, Any], path: Path) -> None:
    """`torch.save` and fsync."""
    with path.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def time_once(way: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
