"""The machine and the version that are measured."""

import ast
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.processes import ROOT, run

_PACKAGES = ("torch", "torchvision", "numpy")


def about_machine() -> dict[str, Any]:
    """Processor, cores, memory, system and versions. Nothing of the environment, which may hold secrets."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    processor = re.search(r"^model name\s*: (.*)$", cpuinfo, re.MULTILINE)
    flags = set(cpuinfo.split())
    memory = re.search(r"^MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="utf-8"), re.MULTILINE)
    return {
        "processor": processor[1] if processor else platform.machine(),
        "cores": cpuinfo.count("\nprocessor") + cpuinfo.startswith("processor"),
        "bf16": sorted(flags & {"avx512_bf16", "amx_bf16"}),
        "memory_gib": round(int(memory[1]) / 2**20) if memory else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "commit": commit_of(ROOT),
    }


def gpus() -> list[str]:
    """Names of the GPUs that torch finds."""
    ask = "import torch; print([torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())])"
    return list(ast.literal_eval(run([sys.executable, "-c", ask]).output.splitlines()[-1]))


def commit_of(root: Path) -> str | None:
    """The commit of a checkout, with a + if files differ from it; None if it has no git history."""
    answer = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--match="],  # noqa: S607
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return answer.stdout.strip() or None


def machine_name(about: dict[str, Any]) -> str:
    """A name of the machine for files, such as `amd-epyc-2-cores`."""
    name = re.sub(r"[^a-z0-9]+", "-", about["processor"].lower().replace("(r)", "").replace("(tm)", "")).strip("-")
    return f"{name}-{about['cores']}-cores"
