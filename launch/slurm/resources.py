"""The resources of a Slurm job: arguments, checks and flags of sbatch."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from dist_train.errors import ConfigError
from dist_train.system.plural import format_count
from launch.arguments import number_from, parse_time_limit, to_seconds

if TYPE_CHECKING:
    from dist_train.settings.schema import Config
    from launch.slurm.profiles import Cluster

_T = TypeVar("_T")
STOP_SECONDS = 120
"""Seconds before the time limit at which the job is stopped (`--signal` in slurm/train.sbatch)."""
RESERVED_FLAGS = ("array", "a", "clusters", "M", "export", "job-name", "J", "output", "o", "parsable", "wrap")
"""Flags of sbatch that a submission sets itself or cannot support."""


def add_resource_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `Resources.from_options` reads."""
    group = parser.add_argument_group("resources of a job")
    group.add_argument("--nodes", type=number_from(1), default=1, metavar="N", help="number of nodes; default 1")
    group.add_argument("--gpus-per-node", type=number_from(0), metavar="G", help="GPUs per node; 0: train on the CPU")
    group.add_argument(
        "--nproc-per-node", type=number_from(1), metavar="P", help="ranks per node; default: one per GPU, or one"
    )
    group.add_argument(
        "--time", type=parse_time_limit, metavar="H:MM:SS", help="time limit; default: one hour, from the script"
    )
    group.add_argument("--partition", metavar="NAME", help="partition, see `sinfo -s`; default: the cluster's")
    group.add_argument("--account", metavar="NAME", help="account to charge")
    group.add_argument("--qos", metavar="NAME", help="quality of service")
    group.add_argument("--cpus-per-task", type=number_from(1), metavar="C", help="cores per node; default: one a rank")
    group.add_argument("--mem", metavar="M", help="memory per node, e.g. 64G")
    group.add_argument("--profile", metavar="NAME", help="defaults of a cluster, from configs/clusters/NAME.yaml")
    parser.set_defaults(passed_on=())


@dataclass(frozen=True)
class Resources:
    """The resources of a job."""

    nodes: int
    gpus_per_node: int
    nproc_per_node: int
    cpus_per_task: int
    time: str | None
    partition: str | None
    account: str | None
    qos: str | None
    mem: str | None
    cluster: "Cluster"
    flags: tuple[str, ...]
    """Further flags of sbatch, from the profile and the command line."""

    @classmethod
    def from_options(cls, options: argparse.Namespace) -> "Resources":
        """Take each value from the command line, else from the profile, else the default.

        Raises:
            ConfigError: the number of GPUs is missing, the profile does not exist, or a flag is reserved.
        """
        from launch.slurm.profiles import Cluster, load_cluster

        cluster = load_cluster(options.profile) if options.profile else Cluster()
        gpus = _first_set(options.gpus_per_node, cluster.gpus_per_node)
        if gpus is None:
            raise ConfigError("--gpus-per-node is missing: the number of GPUs per node, 0 to train on the CPU")
        ranks = options.nproc_per_node or max(gpus, 1)
        flags = (*cluster.sbatch, *options.passed_on)
        _check_flags(flags)
        return cls(
            nodes=options.nodes,
            gpus_per_node=gpus,
            nproc_per_node=ranks,
            cpus_per_task=_first_set(options.cpus_per_task, cluster.cpus_per_task) or ranks,
            time=_first_set(options.time, cluster.time),
            partition=_first_set(options.partition, cluster.partition),
            account=_first_set(options.account, cluster.account),
            qos=_first_set(options.qos, cluster.qos),
            mem=_first_set(options.mem, cluster.mem),
            cluster=cluster,
            flags=flags,
        )

    @property
    def ranks(self) -> int:
        return self.nodes * self.nproc_per_node

    def check(self, config: "Config") -> None:
        """Check now what would otherwise fail, or leave GPUs idle, after hours in the queue.

        Raises:
            ConfigError: ranks, GPUs, backend and batch size do not fit together.
        """
        from dist_train.settings.schedule import check_ranks

        backend, gpus = config.distributed.backend, self.gpus_per_node
        if gpus and self.nproc_per_node > gpus and backend != "gloo":
            raise ConfigError(
                f"--nproc-per-node is {self.nproc_per_node} and --gpus-per-node {gpus}: each rank needs its own GPU. "
                "Ask for fewer ranks or more GPUs; --gpus-per-node 0 trains on the CPU"
            )
        if gpus and backend == "gloo":
            raise ConfigError(
                f"distributed.backend is gloo, which trains on the CPU, and --gpus-per-node {gpus} would leave GPUs "
                "idle: set --gpus-per-node 0, or another backend"
            )
        if not gpus and backend == "nccl":
            raise ConfigError("distributed.backend is nccl, which needs GPUs, but --gpus-per-node is 0: ask for GPUs")
        if self.ranks > config.data.global_batch:
            raise ConfigError(
                f"data.global_batch is {config.data.global_batch}, less than the {self.ranks} ranks ({self.nodes} "
                f"nodes of {self.nproc_per_node}): some would have no sample in any step. Ask for fewer ranks"
            )
        check_ranks(config, self.ranks)

    def describe(self, config: "Config") -> str:
        """Describe ranks, devices and batch of a step; warn if the time limit is too short."""
        batch, shards = config.data.global_batch, config.shards or self.ranks
        share = -(-batch // shards)
        size = min(share, config.train.micro_batch or share)
        passes = -(-share // size) * shards // self.ranks
        most = format_count(size, "sample")
        device = format_count(self.gpus_per_node, "GPU") if self.gpus_per_node else "CPU"
        return (
            f"{config.run.name}: {format_count(self.ranks, 'rank')}, {self.nproc_per_node} on each of "
            f"{format_count(self.nodes, 'node')} with {device}; global batch {batch}: "
            f"{format_count(passes, 'backward pass', 'backward passes')} a step and rank, of at most {most}"
            + self._warn_short_time()
        )

    def _warn_short_time(self) -> str:
        if self.time is None or to_seconds(self.time) > 2 * STOP_SECONDS:
            return ""
        return (
            f"\n--time {self.time}: the job is stopped {STOP_SECONDS} s before the limit, so that it can save; "
            "almost no time is left to train"
        )

    def build_flags(self) -> list[str]:
        """Build the flags of sbatch."""
        asked = {
            "--nodes": self.nodes,
            "--ntasks-per-node": 1,
            "--gpus-per-node": self.gpus_per_node or None,
            "--cpus-per-task": self.cpus_per_task,
            "--mem": self.mem,
            "--time": self.time,
            "--partition": self.partition,
            "--account": self.account,
            "--qos": self.qos,
        }
        return [*(f"{flag}={value}" for flag, value in asked.items() if value is not None), *self.flags]

    def build_environment(self) -> dict[str, str]:
        """Build the environment variables that `slurm/train.sbatch` and the training read."""
        cluster = self.cluster
        own = {
            "DIST_TRAIN_NPROC_PER_NODE": str(self.nproc_per_node),
            "DIST_TRAIN_PYTHON": cluster.python or ("python3" if cluster.container else sys.executable),
            "DIST_TRAIN_MODULES": " ".join(cluster.modules),
            "DIST_TRAIN_CONTAINER": cluster.container or "",
        }
        given = {name: str(value) for name, value in cluster.environment.items()}
        return {**{name: value for name, value in own.items() if value}, **given}


def _first_set(*values: _T | None) -> _T | None:
    return next((value for value in values if value is not None), None)


def _check_flags(flags: Sequence[str]) -> None:
    """Raise ConfigError for a flag of sbatch that is reserved."""
    for flag in flags:
        name = flag.lstrip("-").partition("=")[0]
        is_short = not flag.startswith("--")
        if flag.startswith("-") and (name in RESERVED_FLAGS or (is_short and name[:1] in RESERVED_FLAGS)):
            raise ConfigError(f"{flag}: can't be passed to sbatch; dist-train sets {', '.join(RESERVED_FLAGS)} itself")
