"""The arguments of the scripts in `peers`, and the log lines that all of them write."""

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
    """Workers of the DataLoader."""
    autocast: str
    """`no` or `bf16`."""
    device: str
    """`cpu` or `cuda`."""
    ranks: int
    """Number of processes."""
    quiet: bool
    """Turn off what the framework does besides the training by default."""
    readings: Path | None
    """File that gets a line of JSON for each logged step, with `step` and `time`."""

    @property
    def batch(self) -> int:
        """Samples of a rank in one step."""
        return self.workload.batch // self.ranks

    def torch_device(self) -> torch.device:
        """The device of this rank."""
        if self.device == "cpu":
            return torch.device("cpu")
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        return device

    def is_logged(self, step: int) -> bool:
        """Whether the loss is logged after `step` finished steps."""
        return step % self.workload.log_every_steps == 0 or step == 1

    def log_step(self, step: int, loss: float) -> None:
        """Print the loss and write the time at which `step` steps were finished; for rank 0."""
        print(f"step {step} of {self.steps}  loss {loss:.4f}", flush=True)
        if self.readings:
            with self.readings.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "time": time.time()}) + "\n")


def parse_options() -> Options:
    """Options from the command line and the launcher's variables."""
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
