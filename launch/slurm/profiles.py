"""What a cluster wants in every submission, written down once: `configs/clusters/NAME.yaml`."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import Field

from dist_train.errors import ConfigError
from dist_train.settings.loader import load_section
from dist_train.settings.schema import PositiveInt, Section
from launch.arguments import TIME

DIRECTORY = Path("configs/clusters")


class Cluster(Section):
    """A cluster's profile; what is given on the command line of `dist-train submit` comes before it."""

    partition: str | None = None
    """Partition, as `sinfo -s` lists them."""
    account: str | None = None
    """Account that pays."""
    qos: str | None = None
    """Quality of service."""
    gpus_per_node: Annotated[int, Field(ge=0)] | None = None
    """GPUs of one node; 0: one that has none."""
    cpus_per_task: PositiveInt | None = None
    """Cores of one node that a job takes."""
    mem: str | None = None
    """Memory of one node that a job takes, e.g. `64G`."""
    time: Annotated[str, Field(pattern=f"^({TIME})$")] | None = None
    """How long a job may run, e.g. `2:00:00`."""
    modules: tuple[str, ...] = ()
    """What `module load` loads before the training."""
    container: str | None = None
    """Image in which `apptainer exec` trains, e.g. `/shared/dist-train.sif`."""
    python: str | None = None
    """The Python that trains; default: the one that submits, in a container `python3`."""
    environment: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], str | int | float] = Field(default={})
    """Variables of the job, e.g. `NCCL_SOCKET_IFNAME: ib0`."""
    sbatch: tuple[str, ...] = ()
    """Further flags of sbatch, e.g. `--constraint=a100`."""


def load_cluster(name: str) -> Cluster:
    """The profile of this name, or in the file of this path.

    Raises:
        ConfigError: there is none, or it has faults.
    """
    path = Path(name) if re.search(r"[/.]", name) else DIRECTORY / f"{name}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in DIRECTORY.glob("*.yaml"))) or "none"
        raise ConfigError(f"--profile: {path} is no file; there are in {DIRECTORY}: {there}")
    return load_section(path, Cluster)
