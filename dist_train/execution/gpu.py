"""Configure the process of a rank on a GPU: TF32, cuDNN's choice of kernels, and the cores near the GPU."""

import os
import re
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from dist_train.errors import ConfigError

ALIGNMENT = 16
"""Bytes that one load of a GPU's vector instructions reads at most; memory that it reads begins at a multiple."""
_WORKSPACES = (":4096:8", ":16:8")
"""Values of CUBLAS_WORKSPACE_CONFIG with which cuBLAS is deterministic; without one torch refuses its products."""
_DRIVER = Path("/proc/driver/nvidia/version")


def configure_gpu(precision: str, *, deterministic: bool, environ: MutableMapping[str, str] = os.environ) -> None:
    """Set how cuDNN and cuBLAS compute in this process.

    Raises:
        ConfigError: a variable asks cuBLAS for what is not deterministic, where `deterministic` is wanted.
    """
    # fp32 means fp32: by default cuDNN's convolutions drop 13 bits of the mantissa. Both flags by the older of the two
    # interfaces that torch has, which the newer one follows: after a use of both, torch refuses to answer.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    # cuDNN times its kernels for each shape and takes the fastest, which may be another one at the next start.
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        name = "CUBLAS_WORKSPACE_CONFIG"
        if environ.setdefault(name, _WORKSPACES[0]) not in _WORKSPACES:
            raise ConfigError(
                f"environment: {name} is {environ[name]}, with which cuBLAS is not deterministic, and the settings ask "
                f"for that (run.deterministic or run.reproducible); set it to {' or '.join(_WORKSPACES)}, or unset it"
            )


def bind_to_near_cores(device: torch.device, sysfs: Path = Path("/sys")) -> None:
    """Run on those of this process's cores that are on the NUMA node of its GPU; nothing changes on a CPU.

    Threads and processes that are started later inherit it. Nothing changes either where the node is not known, as in
    some containers, or where the launcher has bound the rank to other cores.
    """
    if device.type != "cuda":
        return
    gpu: Any = torch.cuda.get_device_properties(device)  # the stubs lack its address
    address = f"{gpu.pci_domain_id:04x}:{gpu.pci_bus_id:02x}:{gpu.pci_device_id:02x}.0"
    try:
        node = int((sysfs / "bus/pci/devices" / address / "numa_node").read_text())
        cores = (sysfs / f"devices/system/node/node{node}/cpulist").read_text()  # node -1: not known
    except (OSError, ValueError):
        return
    if near := _parse_ranges(cores) & os.sched_getaffinity(0):
        os.sched_setaffinity(0, near)


def describe_versions(device: torch.device) -> dict[str, str]:
    """Versions of the libraries and the driver on which a GPU's bits depend, by name; {} on a CPU."""
    if device.type != "cuda":
        return {}
    nccl = torch.cuda.nccl.version() if dist.is_nccl_available() else ()  # type: ignore[no-untyped-call]
    found = re.search(r"\d+\.\d+(\.\d+)?", _DRIVER.read_text()) if _DRIVER.exists() else None
    return {
        "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
        "nccl": ".".join(map(str, nccl)) or "none",
        "driver": found[0] if found else "unknown",
    }


def _parse_ranges(text: str) -> set[int]:
    """`0-2,8` -> {0, 1, 2, 8}, as the kernel writes sets of cores."""
    parts = (part.partition("-") for part in text.strip().split(",") if part)
    return {core for first, _, last in parts for core in range(int(first), int(last or first) + 1)}
