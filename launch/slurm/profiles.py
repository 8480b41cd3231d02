"""Profiles of clusters: defaults of every submission, from `configs/clusters/NAME.yaml`."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import Field

from dist_train.errors import ConfigError
from dist_train.settings.loader import load_section
from dist_train.settings.schema.section import PositiveInt, Section
from dist_train.system.escape import escape
from launch.arguments import TIME

DIRECTORY = Path("configs/clusters")


class Cluster(Section):
    """The profile of a cluster; arguments of `dist-train submit` override it."""

    partition: str | None = None
    """Partition, see `sinfo -s`."""
    account: str | None = None
    """Account to charge."""
    qos: str | None = None
    """Quality of service."""
    gpus_per_node: Annotated[int, Field(ge=0)] | None = None
    """GPUs per node; 0: train on the CPU."""
    cpus_per_task: PositiveInt | None = None
    """Cores per node."""
    mem: str | None = None
    """Memory per node, e.g. `64G`."""
    time: Annotated[str, Field(pattern=f"^({TIME})$")] | None = None
    """Time limit, e.g. `2:00:00`."""
    modules: tuple[str, ...] = ()
    """Modules to load with `module load`."""
    container: str | None = None
    """Image for `apptainer exec`, e.g. `/shared/dist-train.sif`."""
    python: str | None = None
    """Python of the training; default: the one that submits, in a container `python3`."""
    environment: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], str | int | float] = Field(default={})
    """Environment variables of the job, e.g. `NCCL_SOCKET_IFNAME: ib0`."""
    sbatch: tuple[str, ...] = ()
    """Further flags of sbatch, e.g. `--constraint=a100`."""


def load_cluster(name: str) -> Cluster:
    """Load a profile by its name or by the path of its file.

    Raises:
        ConfigError: the file does not exist or has invalid settings.
    """
    path = Path(name) if re.search(r"[/.]", name) else DIRECTORY / f"{name}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in DIRECTORY.glob("*.yaml"))) or "none"
        raise ConfigError(f"--profile: {escape(path)} does not exist; profiles in {DIRECTORY}: {names}")
    return load_section(path, Cluster)
