"""What a script of `peers` is asked for, and the clock that all of them read."""

import argparse
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.compare.workloads import WORKLOADS, Workload

AUTOCAST = ("no", "bf16")


@dataclass(frozen=True)
class Options:
    """The arguments of a script."""

    workload: Workload
    steps: int
    """Optimizer steps until the script ends."""
    workers: int
    """Workers of a DataLoader."""
    autocast: str
    """`no` or `bf16`."""
    device: str
    """`cpu` or `cuda`."""
    ranks: int
    """How many processes train together."""
    quiet: bool
    """Without what the framework does beside the training by default."""
    readings: Path | None

    @property
    def batch(self) -> int:
        """Samples a rank in one step."""
        return self.workload.batch // self.ranks

    def torch_device(self) -> torch.device:
        """The device of this rank."""
        if self.device == "cpu":
            return torch.device("cpu")
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        return device

    def is_logged(self, step: int) -> bool:
        """Whether the loss is printed and the clock is read after `step` finished steps."""
        return step % self.workload.log_every_steps == 0 or step == 1

    def log_step(self, step: int, loss: float) -> None:
        """Print the loss and write down when `step` steps were finished; rank 0 calls this."""
        print(f"step {step} of {self.steps}  loss {loss:.4f}", flush=True)
        if self.readings:
            with self.readings.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "time": time.time()}) + "\n")


def parse_options() -> Options:
    """The options that the command line and the launcher's variables give."""
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--autocast", choices=AUTOCAST, default="no")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--ranks", type=int, default=int(os.environ.get("WORLD_SIZE", "1")))
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--readings", type=Path)
    given = vars(parser.parse_args())
    return Options(WORKLOADS[given.pop("workload")], **given)
