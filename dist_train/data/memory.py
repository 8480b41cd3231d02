"""Memory available to this process, and on a GPU."""

import os
from pathlib import Path

import torch

from dist_train.errors import DataError

MEMINFO = Path("/proc/meminfo")
CGROUPS = Path("/sys/fs/cgroup")


def host_bytes() -> int:
    """Return the bytes that this process can still allocate, within the limits of its container or batch job."""
    return min([_available(), *_limits()])


def check_memory(needed: int, what: str) -> None:
    """Raise DataError if something takes more bytes than this process can allocate; `what` names the settings."""
    if needed > (available := host_bytes()):
        there = f"{available / 1e9:,.1f} GB are available"
        raise DataError(f"{what} take {needed / 1e9:,.1f} GB of memory, and {there}; make them smaller")


def device_bytes(device: torch.device) -> int:
    """Return the free bytes of a GPU."""
    return torch.cuda.mem_get_info(device)[0]


def _available() -> int:
    if not MEMINFO.exists():  # no Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def _limits() -> list[int]:
    """Return the limits of the control groups that this process is in, of version 2 or 1."""
    memberships = Path("/proc/self/cgroup")
    found = []
    for line in memberships.read_text().splitlines() if memberships.exists() else []:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            found += _along(CGROUPS, path, "memory.max")
        elif "memory" in controllers.split(","):
            found += _along(CGROUPS / "memory", path, "memory.limit_in_bytes")
    return found


def _along(root: Path, path: str, name: str) -> list[int]:
    """Return the limits of a group and all groups above it; `max` is none."""
    group = root / path.lstrip("/")
    files = [folder / name for folder in (group, *group.parents) if folder.is_relative_to(root)]
    texts = [file.read_text().strip() for file in files if file.is_file()]
    return [int(text) for text in texts if text.isdecimal()]
