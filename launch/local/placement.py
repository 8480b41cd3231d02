"""Give parallel runs on this machine their own cores and GPUs.

A training starts one thread for each core that it may use, so runs that share cores slow each other down.
"""

import os
from collections.abc import Mapping

from launch.local.training_command import build_environment, find_gpu_files

VISIBLE = "CUDA_VISIBLE_DEVICES"


def choose_cores(slot: int, slots: int) -> set[int]:
    """Return the cores of the run in slot `slot` of `slots`, from 0; empty if the system can't pin processes.

    Each run has at least one core; with fewer cores than slots some runs share one.
    """
    if not hasattr(os, "sched_setaffinity"):
        return set()
    known = sorted(os.sched_getaffinity(0))
    each = max(1, len(known) // slots)
    first = slot * each % len(known)
    return set(known[first : first + each])


def build_slot_environment(slot: int, slots: int, ranks: int | None, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the run in a slot, with its own GPUs if there are enough.

    Args:
        slot: number of the run, from 0.
        slots: number of parallel runs.
        ranks: ranks of one run; None: one per visible GPU.
        environ: the environment to extend.
    """
    gpus = _list_gpus(environ)
    each = ranks or len(gpus) // slots
    if slots == 1 or not each or each * slots > len(gpus):
        return build_environment(ranks, environ, slots)
    own = {**environ, VISIBLE: ",".join(gpus[slot * each : (slot + 1) * each])}
    return build_environment(ranks or each, own, slots)


def _list_gpus(environ: Mapping[str, str]) -> list[str]:
    """Return the GPUs for `CUDA_VISIBLE_DEVICES`: those it lists now, or all NVIDIA GPUs of this machine."""
    if VISIBLE in environ:
        return [each for each in environ[VISIBLE].split(",") if each.strip() not in ("", "-1")]
    return [str(number) for number, _ in enumerate(path for path in find_gpu_files() if path.name.startswith("nvidia"))]
