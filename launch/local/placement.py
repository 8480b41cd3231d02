"""What each of several runs that go side by side takes of this machine: cores and GPUs of its own.

The training counts the cores that it may use, and takes a thread for each: runs that all had the same cores would
crawl.
"""

import os
from collections.abc import Mapping

from launch.local.training_command import build_environment, find_gpu_files

VISIBLE = "CUDA_VISIBLE_DEVICES"


def choose_cores(slot: int, slots: int) -> set[int]:
    """Numbers of the cores of the run in a slot, from 0; empty where the system can't hold a process to some.

    Each has at least one; where there are fewer cores than slots, some share theirs.
    """
    if not hasattr(os, "sched_setaffinity"):
        return set()
    known = sorted(os.sched_getaffinity(0))
    each = max(1, len(known) // slots)
    first = slot * each % len(known)
    return set(known[first : first + each])


def build_slot_environment(slot: int, slots: int, ranks: int | None, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of the run in a slot, with GPUs of its own where there are enough.

    Args:
        ranks: of one run; None: one a GPU that it sees.
        environ: variables that it has besides.
    """
    gpus = _list_gpus(environ)
    each = ranks or len(gpus) // slots
    if slots == 1 or not each or each * slots > len(gpus):
        return build_environment(ranks, environ, slots)
    own = {**environ, VISIBLE: ",".join(gpus[slot * each : (slot + 1) * each])}
    return build_environment(ranks or each, own, slots)


def _list_gpus(environ: Mapping[str, str]) -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` may name: what it names now, or the GPUs of NVIDIA of this machine."""
    if VISIBLE in environ:
        return [each for each in environ[VISIBLE].split(",") if each.strip() not in ("", "-1")]
    return [str(number) for number, _ in enumerate(path for path in find_gpu_files() if path.name.startswith("nvidia"))]
