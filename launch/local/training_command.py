"""What starts a training on this machine: its number of ranks, command line and environment."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from launch.arguments import AUTO

if TYPE_CHECKING:
    from dist_train.settings.schema import Distributed


DEVICES = Path("/dev")
MAX_RANKS_PER_CORE = 16  # ranks; many more would take all memory before the first of them could say anything


def build_command(settings: Sequence[str], ranks: int | None, max_restarts: int = 0) -> list[str]:
    """What is started.

    Args:
        settings: CONFIG and its key=value.
        ranks: None where only torch can count the GPUs.
        max_restarts: how often lost ranks are started anew in place.
    """
    if ranks == 1 and max_restarts == 0:
        return [sys.executable, "-m", "dist_train", *settings]
    where = ["--nproc", AUTO if ranks is None else str(ranks), "--max-restarts", str(max_restarts)]
    return [sys.executable, "-m", "dist_train.elastic.agent", *where, *settings]


def build_environment(ranks: int | None, environ: Mapping[str, str], runs: int = 1) -> dict[str, str]:
    """The variables of what is started: OMP_NUM_THREADS, unless it is set, shares the cores between the ranks.

    Args:
        ranks: of one run; None where only torch can count the GPUs.
        environ: variables that it has besides.
        runs: how many go side by side.
    """
    shared = runs * (ranks or len(find_gpu_files()) or 1)
    return {"OMP_NUM_THREADS": str(max(1, _count_cores() // shared)), **environ}


def resolve_ranks(nproc: int | str, distributed: "Distributed", environ: Mapping[str, str]) -> int | None:
    """The number of ranks; None: there are GPUs, and torch has to count them."""
    if isinstance(nproc, int):
        return nproc
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    hidden = visible is not None and visible.strip() in ("", "-1")
    return 1 if distributed.backend == "gloo" or hidden or not find_gpu_files() else None


def find_gpu_files() -> list[Path]:
    """What stands for GPUs on this machine: NVIDIA's each has a file, AMD's and those of WSL share one."""
    if not DEVICES.is_dir():
        return []
    return [path for path in DEVICES.iterdir() if re.fullmatch(r"nvidia\d+|kfd|dxg", path.name)]


def max_ranks() -> int:
    """How many ranks may be asked of this machine."""
    return MAX_RANKS_PER_CORE * _count_cores()


def _count_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
