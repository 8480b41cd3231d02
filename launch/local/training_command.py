"""Build the command that trains on this machine: number of ranks, command line, environment."""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import dist_train
from dist_train.system.cpu import count_cores
from launch.arguments import AUTO

if TYPE_CHECKING:
    from dist_train.settings.schema import Distributed


DEVICES = Path("/dev")
MAX_RANKS_PER_CORE = 16  # many more would use up the memory before the first error message


def build_command(settings: Sequence[str], ranks: int | None, max_restarts: int = 0) -> list[str]:
    """Return the command line of a training: one process, or the agent that starts ranks.

    Args:
        settings: CONFIG and key=value.
        ranks: number of ranks; None: one per GPU, counted by torch.
        max_restarts: limit of the restarts in place after a rank is lost.
    """
    if ranks == 1 and max_restarts == 0:
        return [sys.executable, "-m", "dist_train", *settings]
    where = ["--nproc", AUTO if ranks is None else str(ranks), "--max-restarts", str(max_restarts)]
    return [sys.executable, "-m", "dist_train.elastic.agent", *where, *settings]


def build_environment(ranks: int | None, environ: Mapping[str, str], runs: int = 1) -> dict[str, str]:
    """Return the environment of a training; OMP_NUM_THREADS, unless set, divides the cores among the ranks.

    Args:
        ranks: ranks of one run; None: one per GPU, counted by torch.
        environ: the environment to extend.
        runs: number of parallel runs.
    """
    shared = runs * (ranks or len(find_gpu_files()) or 1)
    return {"OMP_NUM_THREADS": str(max(1, count_cores() // shared)), **environ, **protect_imports()}


def protect_imports() -> dict[str, str]:
    """Return variables with which files of the user, such as a random.py, replace no modules in processes started here.

    A checkout that is not installed is found by the working directory alone; `dist_train` then moves that to the end.
    """
    is_installed = Path(dist_train.__file__).resolve().parent.parent != Path.cwd()
    return {"PYTHONSAFEPATH": "1" if is_installed else ""}


def resolve_ranks(nproc: int | str, distributed: "Distributed", environ: Mapping[str, str]) -> int | None:
    """Return the number of ranks; None: one per GPU, which torch has to count."""
    if isinstance(nproc, int):
        return nproc
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    hidden = visible is not None and visible.strip() in ("", "-1")
    return 1 if distributed.backend == "gloo" or hidden or not find_gpu_files() else None


def find_gpu_files() -> list[Path]:
    """Return the device files of GPUs: one per NVIDIA GPU, one for all AMD GPUs or for WSL."""
    if not DEVICES.is_dir():
        return []
    return [path for path in DEVICES.iterdir() if re.fullmatch(r"nvidia\d+|kfd|dxg", path.name)]


def max_ranks() -> int:
    """Return the largest number of ranks that `--nproc` accepts."""
    return MAX_RANKS_PER_CORE * count_cores()
