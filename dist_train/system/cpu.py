"""What a rank settles with its machine before it makes the big tensors: memory that is kept, and near cores.

Neither changes a bit of what is trained. No torch.
"""

import ctypes
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dist_train.settings.schema import Distributed

NODES = Path("/sys/devices/system/node")
TASKS = Path("/proc/self/task")
# mallopt(3); the threshold is the highest that glibc takes on 64 bits.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER, _HIGHEST = -1, 32 * 2**20
_OTHERS = re.compile(r"jemalloc|tcmalloc|mimalloc|snmalloc|tbbmalloc")
# By these a user has tuned glibc, or a user or launcher has bound the process.
_TUNED = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_")
_BOUND = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY", "SLURM_CPU_BIND")


@dataclass(frozen=True)
class Host:
    """What was settled."""

    allocator: str
    """`glibc, keeps freed memory`; or `system`, with the reason where `auto` has left it alone."""
    cores: tuple[int, ...] | None
    """The cores of the NUMA node that the rank keeps to; None: all that it was given."""

    def __str__(self) -> str:
        kept = f"cores {_ranges(self.cores)}" if self.cores else "not bound"
        return f"memory: {self.allocator}; {kept}"

    def bind(self) -> None:
        """Move all threads of this process to `cores`; those that it starts later go there too."""
        for task in TASKS.iterdir() if self.cores else ():
            with suppress(ProcessLookupError):  # a thread that has just ended
                os.sched_setaffinity(int(task.name), self.cores or ())


def settle(
    config: Distributed, local_rank: int, local_size: int, *, on_cpu: bool, environ: Mapping[str, str] = os.environ
) -> Host:
    """Let the C library keep the memory that is freed, and choose the cores for `Host.bind`.

    Args:
        local_size: ranks on this machine, of which this is `local_rank`.
        on_cpu: whether the rank trains on the CPU; the order of GPUs says nothing of their places.
    """
    allocator = _keep_memory(environ) if config.allocator == "auto" else "system"
    is_bound = config.binding == "off" or any(name in environ for name in _BOUND)
    cores = _near_cores(local_rank, local_size) if on_cpu and not is_bound else None
    return Host(allocator, cores)


def _keep_memory(environ: Mapping[str, str]) -> str:
    """By default glibc hands what a step frees back to the system, and the next step pays for every page of it anew."""
    if other := _OTHERS.search(environ.get("LD_PRELOAD", "")):
        return f"system ({other[0]} is preloaded)"
    if tuned := [name for name in _TUNED if name in environ]:
        return f"system ({', '.join(tuned)} set)"
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return "system (not glibc)"
    # Both: where one is set, glibc stops to adapt the other, and would map all above 128 KiB for each use.
    done = library.mallopt(_MMAP_THRESHOLD, _HIGHEST) and library.mallopt(_TRIM_THRESHOLD, _NEVER)
    return "glibc, keeps freed memory" if done else "system (glibc refuses)"


def _near_cores(local_rank: int, local_size: int) -> tuple[int, ...] | None:
    """This rank's NUMA node, where ranks can be dealt out to several of them: memory of another is farther away."""
    if local_size == 1 or not hasattr(os, "sched_getaffinity"):
        return None
    given = os.sched_getaffinity(0)
    nodes = [cores & given for cores in _nodes() if cores & given]
    if len(nodes) < 2 or local_size % len(nodes) or len({len(cores) for cores in nodes}) > 1:
        return None
    return tuple(sorted(nodes[local_rank * len(nodes) // local_size]))


def _nodes() -> list[set[int]]:
    """The cores of each NUMA node, in their order."""
    folders = sorted(NODES.glob("node[0-9]*"), key=lambda folder: int(folder.name.removeprefix("node")))
    return [_parsed((folder / "cpulist").read_text()) for folder in folders]


def _parsed(ranges: str) -> set[int]:
    """Numbers out of the kernel's text, e.g. `0-3,8-11`."""
    parts = [part.partition("-") for part in ranges.strip().split(",") if part]
    return {core for first, _, last in parts for core in range(int(first), int(last or first) + 1)}


def _ranges(cores: tuple[int, ...]) -> str:
    """The reverse of `_parsed`."""
    firsts = [core for core in cores if core - 1 not in cores]
    lasts = [core for core in cores if core + 1 not in cores]
    pairs = zip(firsts, lasts, strict=True)
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in pairs)
