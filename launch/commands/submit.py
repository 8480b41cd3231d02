"""Train what a file of settings says as a Slurm job.

    dist-train submit configs/cifar10_resnet18.yaml --nodes 2 --gpus-per-node 4 --time 8:00:00 [key=value ...]
    dist-train submit configs/digits.yaml --gpus-per-node 0 --nproc-per-node 2 --time 0:10:00
    dist-train submit configs/digits.yaml --profile mycluster -- --constraint=a100     flags after -- go to sbatch

The settings are checked here and now, and Slurm is asked whether such a job can ever run, before anything is queued.
The job trains a copy of CONFIG as it is now, from `jobs/N/` of the run's directory. At the time limit and when it is
preempted it saves and queues itself again.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dist_train.errors import ConfigError, SlurmError
from dist_train.run_dir import RunDir, write_whole
from launch.arguments import number_from, seconds, time_limit
from launch.runs.history import History
from launch.slurm import client

if TYPE_CHECKING:
    from dist_train.settings.schema import Config
    from launch.slurm.profiles import Cluster

_T = TypeVar("_T")
LAUNCHES = ("torchrun", "srun")
STOP = 120
"""Seconds before the time limit at which the script's `--signal` comes."""
OURS = ("array", "a", "clusters", "M", "export", "job-name", "J", "output", "o", "parsable", "wrap")
"""Flags of sbatch that a submission has itself, or that would make another thing of it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="file of settings, e.g. configs/digits.yaml")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="settings that override the file's"
    )
    add_resources(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the sbatch line and the script; submit nothing")


def add_resources(parser: argparse.ArgumentParser) -> None:
    """What a job takes of the cluster."""
    group = parser.add_argument_group("resources of a job")
    group.add_argument("--nodes", type=number_from(1), default=1, metavar="N", help="number of nodes; default 1")
    group.add_argument("--gpus-per-node", type=number_from(0), metavar="G", help="GPUs of each node; 0: train on CPU")
    group.add_argument(
        "--nproc-per-node", type=number_from(1), metavar="P", help="ranks on each node; default: one a GPU, or one"
    )
    group.add_argument(
        "--time", type=time_limit, metavar="H:MM:SS", help="how long it may run; default: the script's hour"
    )
    group.add_argument("--partition", metavar="NAME", help="as `sinfo -s` lists them; default: the cluster's")
    group.add_argument("--account", metavar="NAME", help="who pays")
    group.add_argument("--qos", metavar="NAME", help="quality of service")
    group.add_argument(
        "--cpus-per-task", type=number_from(1), metavar="C", help="cores of each node; default: one a rank"
    )
    group.add_argument("--mem", metavar="M", help="memory of each node, e.g. 64G")
    group.add_argument("--launch", choices=LAUNCHES, default="torchrun", help="what starts the ranks; default torchrun")
    group.add_argument("--profile", metavar="NAME", help="defaults of a cluster, from configs/clusters/NAME.yaml")
    parser.set_defaults(passed_on=())


def run(options: argparse.Namespace) -> int:
    """Check everything, then submit the job."""
    from dist_train.settings.loader import load_config

    config = load_config(options.config, options.overrides)
    resources = Resources.of(options)
    resources.check(config)
    run = RunDir(config.run.dir)
    number = next_number(run)
    directory = run.jobs / str(number)
    submission = Submission(
        resources,
        config.run.name,
        directory,
        (str(directory / Path(options.config).name), *_job_overrides(config, options.overrides)),
        go_on=again(options.given),
    )
    print(resources.shown(config))
    rehearse(submission, options.dry_run)
    if options.dry_run:
        return 0
    check_free(run)
    with _prepared(config, run, directory):
        lay_out(Path(options.config), submission)
        submission.submit()
    print(_what_next(run))
    return 0


@dataclass(frozen=True)
class Resources:
    """What a job takes of a cluster, and how its ranks come up there."""

    nodes: int
    gpus_per_node: int
    nproc_per_node: int
    cpus_per_task: int
    time: str | None
    partition: str | None
    account: str | None
    qos: str | None
    mem: str | None
    launch: str
    cluster: "Cluster"
    flags: tuple[str, ...]
    """Of sbatch, as the user has given them."""

    @classmethod
    def of(cls, options: argparse.Namespace) -> "Resources":
        """What the command line says, else the profile, else the defaults.

        Raises:
            ConfigError: neither says how many GPUs, or there is no such profile.
        """
        from launch.slurm.profiles import Cluster, load_cluster

        cluster = load_cluster(options.profile) if options.profile else Cluster()
        gpus = _first(options.gpus_per_node, cluster.gpus_per_node)
        if gpus is None:
            raise ConfigError("--gpus-per-node is missing: how many GPUs of each node, 0 to train on CPU")
        ranks = options.nproc_per_node or max(gpus, 1)
        flags = (*cluster.sbatch, *options.passed_on)
        _check_flags(flags)
        return cls(
            nodes=options.nodes,
            gpus_per_node=gpus,
            nproc_per_node=ranks,
            cpus_per_task=_first(options.cpus_per_task, cluster.cpus_per_task) or ranks,
            time=_first(options.time, cluster.time),
            partition=_first(options.partition, cluster.partition),
            account=_first(options.account, cluster.account),
            qos=_first(options.qos, cluster.qos),
            mem=_first(options.mem, cluster.mem),
            launch=options.launch,
            cluster=cluster,
            flags=flags,
        )

    @property
    def ranks(self) -> int:
        return self.nodes * self.nproc_per_node

    def check(self, config: "Config") -> None:
        """Find out what would fail, or idle, only when the job has come through the queue.

        Raises:
            ConfigError: ranks, GPUs, backend and batch do not go together.
        """
        from dist_train.settings.schedule import check_ranks

        backend, gpus = config.distributed.backend, self.gpus_per_node
        if gpus and self.nproc_per_node > gpus and backend != "gloo":
            raise ConfigError(
                f"--nproc-per-node is {self.nproc_per_node} and --gpus-per-node {gpus}: a rank needs a GPU of its own. "
                "Ask for fewer ranks or more GPUs; --gpus-per-node 0 trains on CPU"
            )
        if gpus and backend == "gloo":
            raise ConfigError(
                f"distributed.backend is gloo, which trains on CPU, and --gpus-per-node {gpus} would leave GPUs idle: "
                "give 0, or another backend"
            )
        if not gpus and backend == "nccl":
            raise ConfigError("distributed.backend is nccl, which needs GPUs, and --gpus-per-node is 0: give more")
        if self.ranks > config.data.global_batch:
            raise ConfigError(
                f"data.global_batch is {config.data.global_batch}, less than the {self.ranks} ranks ({self.nodes} "
                f"nodes of {self.nproc_per_node}): some would have no sample in any step. Ask for fewer ranks"
            )
        check_ranks(config, self.ranks)

    def shown(self, config: "Config") -> str:
        """What each step is made of."""
        batch, shards = config.data.global_batch, config.shards or self.ranks
        share = -(-batch // shards)
        size = min(share, config.train.micro_batch or share)
        passes = -(-share // size) * shards // self.ranks
        where = f"{self.gpus_per_node} GPU(s)" if self.gpus_per_node else "CPU"
        return (
            f"{config.run.name}: {self.ranks} rank(s), {self.nproc_per_node} on each of {self.nodes} node(s) with "
            f"{where}; global batch {batch}: {passes} backward pass(es) a step and rank, of at most {size} samples"
            + self._short()
        )

    def _short(self) -> str:
        """A warning where the time limit leaves nothing to train."""
        if self.time is None or seconds(self.time) > 2 * STOP:
            return ""
        return (
            f"\n--time {self.time}: the job is stopped to save {STOP} s before, which leaves next to nothing to train"
        )

    def sbatch_flags(self) -> list[str]:
        """The flags of sbatch that ask for this."""
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

    def variables(self) -> dict[str, str]:
        """What `slurm/train.sbatch` and the training read of their surroundings."""
        cluster = self.cluster
        own = {
            "DIST_TRAIN_NPROC_PER_NODE": str(self.nproc_per_node),
            "DIST_TRAIN_LAUNCH": self.launch,
            "DIST_TRAIN_PYTHON": cluster.python or ("python3" if cluster.container else sys.executable),
            "DIST_TRAIN_MODULES": " ".join(cluster.modules),
            "DIST_TRAIN_CONTAINER": cluster.container or "",
        }
        given = {name: str(value) for name, value in cluster.environment.items()}
        return {**{name: value for name, value in own.items() if value}, **given}


@dataclass(frozen=True)
class Submission:
    """One call of sbatch."""

    resources: Resources
    name: str
    directory: Path
    """`jobs/N`; what the job prints goes beside it."""
    arguments: tuple[str, ...]
    """CONFIG and key=value."""
    trials: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """Of a job array: the key=value of each task, by its number."""
    max_parallel: int | None = None
    """How many tasks run at once; None: as many as there is room for."""
    go_on: str = ""
    """What a user gives to go on with it after its end."""

    @property
    def array(self) -> str | None:
        """Numbers of the tasks of a job array, as sbatch takes them."""
        at_once = f"%{self.max_parallel}" if self.max_parallel else ""
        return ",".join(map(str, self.trials)) + at_once if self.trials else None

    @property
    def script(self) -> Path:
        return self.directory / "train.sbatch"

    @property
    def output(self) -> str:
        """As sbatch takes it: % begins what it fills in."""
        return str(self.directory.parent).replace("%", "%%") + ("/slurm-%A_%a.out" if self.array else "/slurm-%j.out")

    def command(self) -> list[str]:
        flags = ["--parsable", "--export=ALL", f"--job-name={self.name}", f"--output={self.output}"]
        array = [f"--array={self.array}"] if self.array else []
        return ["sbatch", *flags, *array, *self.resources.sbatch_flags(), str(self.script), *self.arguments]

    def line(self) -> str:
        """The whole call as a shell takes it."""
        variables = [f"{name}={value}" for name, value in self._variables().items()]
        return shlex.join(["env", *variables, *self.command()])

    def test(self, script: Path) -> str:
        """What Slurm says of such a job without queueing it; raises SlurmError if it could never run."""
        command = self.command()
        command[command.index(str(self.script))] = str(script)
        answer = _sbatch(["sbatch", "--test-only", *command[1:]], self._variables())
        return f"Slurm: such a job is {re.sub(r'^Job [0-9]+ ', '', answer)}"  # the number is that of no job

    def submit(self) -> str:
        """Queue the job, say so, and write down which it is; returns its number."""
        job = _sbatch(self.command(), self._variables()).partition(";")[0]
        about = {
            "job_id": job,
            "submitted": datetime.now(UTC).isoformat(timespec="seconds"),
            "nodes": self.resources.nodes,
            "ranks": self.resources.ranks,
            "array": self.array is not None,
            "command": self.go_on,
        }
        what = "job array" if self.array else "job"
        print(f"{what} {job}: submitted{_beyond_limits(job)}", flush=True)  # before anything can fail
        write_whole(self.directory / "job.json", json.dumps(about) + "\n")
        return job

    def _variables(self) -> dict[str, str]:
        own = {"DIST_TRAIN_COMMAND": self.go_on}
        if self.trials:
            own["DIST_TRAIN_TRIALS"] = str(self.directory / "trials")
        return {**self.resources.variables(), **own}


def _sbatch(command: Sequence[str], variables: dict[str, str]) -> str:
    """Run sbatch, and show at once what it says while it waits for a place in a full queue."""
    try:
        process = subprocess.Popen(  # noqa: S603 (Slurm's own)
            command, env=outside_of_jobs() | variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    except FileNotFoundError as error:
        raise SlurmError("sbatch: no such command here; submit on a login node of a Slurm cluster") from error
    with process:
        said = ""
        for line in process.stderr or ():
            said += line
            if "temporarily unable" in line:
                print(client.refusal(command, line), file=sys.stderr, flush=True)
        answer = process.stdout.read().strip() if process.stdout else ""
    if process.returncode:
        raise SlurmError(client.refusal(command, said))
    return answer or said.strip().removeprefix("sbatch: ")


def outside_of_jobs() -> dict[str, str]:
    """This process's variables without those of a job that it may be part of: sbatch would hand them on."""
    kept = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
    of_job = ("DIST_TRAIN_TRIALS", "DIST_TRAIN_COMMAND", "DIST_TRAIN_CORES")
    return {
        name: value
        for name, value in os.environ.items()
        if (not name.startswith("SLURM_") or name in kept) and name not in of_job
    }


def again(given: Sequence[str]) -> str:
    """The command of `given` arguments that goes on with what they have begun."""
    return shlex.join(["dist-train", *(each for each in given if each != "run.resume=never")])


def _beyond_limits(job: str) -> str:
    """A warning where Slurm has taken a job that it will not start."""
    try:
        reasons = {known.reason for known in client.jobs([job]).values() if known.is_beyond_limits}
    except SlurmError:  # it has taken the job, and that is what counts
        return ""
    return "".join(
        f", but it waits ({reason}) until that limit is raised: cancel it, and ask for less"
        for reason in sorted(reasons)
    )


def rehearse(submission: Submission, is_dry: bool) -> None:
    """Ask Slurm whether such a job can ever run; for a dry run print what would be submitted, with Slurm or without."""
    if is_dry:
        print(f"{submission.line()}\n\n{script().read_text(encoding='utf-8')}", end="")
    if not is_dry or client.is_here():
        print(submission.test(script()))


def script() -> Path:
    """`slurm/train.sbatch` of a checkout, or where an installation has put it."""
    checkout = Path(__file__).parents[2] / "slurm" / "train.sbatch"
    return checkout if checkout.is_file() else Path(sysconfig.get_path("data")) / "share/dist-train/slurm/train.sbatch"


def next_number(run: RunDir) -> int:
    """Number of the next submission of a run, from 1."""
    return 1 + max((int(path.name) for path in run.jobs.glob("*") if path.name.isdecimal()), default=0)


def check_free(run: RunDir) -> None:
    """Raise ConfigError if a job of this run still waits or works."""
    for job in client.jobs(History.of(run.path).job_ids).values():
        if not job.is_over:
            raise ConfigError(
                f"run.dir {run.path}: its job {job.id} is {job.state}. Wait for its end, cancel it (dist-train cancel "
                f"{run.path}), or give this run another name (run.name=...)"
            )


def lay_out(config: Path, submission: Submission) -> None:
    """Copy what the job is made of, so that nothing that is changed later changes the job."""
    directory = submission.directory
    try:
        directory.mkdir(parents=True)
        shutil.copyfile(config, directory / config.name)
        shutil.copyfile(script(), submission.script)
        write_whole(directory / "command.sh", f"#!/bin/sh\n{submission.line()}\n")
        for number, settings in submission.trials.items():
            (directory / "trials").mkdir(exist_ok=True)
            write_whole(directory / "trials" / str(number), "".join(f"{each}\n" for each in settings))
    except OSError as error:
        raise ConfigError(
            f"{directory}: can't be written: {error.strerror}; set run.dir to another directory"
        ) from error


@contextmanager
def _prepared(config: "Config", run: RunDir, directory: Path) -> Iterator[None]:
    """Around the submission: an earlier run is moved aside now where this one is to start anew, because the job's own
    files are about to lie there. Where Slurm refuses, everything is as it was."""
    anew = config.run.resume == "never"
    run.check_usable(anew)
    aside = run.claim(anew) if anew else None
    run.release()
    if aside:
        print(f"the earlier run is now {aside}")
    try:
        yield
    except (SlurmError, ConfigError):
        _undo(run, directory, aside)
        raise


def _undo(run: RunDir, directory: Path, aside: Path | None) -> None:
    if aside:
        shutil.rmtree(run.path)
        aside.rename(run.path)
        print(f"nothing is queued; the earlier run is {run.path} again")
        return
    shutil.rmtree(directory, ignore_errors=True)
    with suppress(OSError):  # as far as they are empty
        run.jobs.rmdir()
        run.path.rmdir()


def _job_overrides(config: "Config", overrides: Sequence[str]) -> list[str]:
    """The settings of the job. By the time it starts, what `run.resume=never` moves aside has been moved."""
    if config.run.resume != "never":
        return list(overrides)
    return [*(each for each in overrides if not each.startswith("run.resume=")), "run.resume=auto"]


def _what_next(run: RunDir) -> str:
    return "\n".join(
        f"  dist-train {command:<10}{run.path}{flag:<5}{what}"
        for command, flag, what in (
            ("status", "", "how it is doing"),
            ("logs", " -f", "what it prints"),
            ("cancel", "", "save and stop"),
        )
    )


def _first(*values: _T | None) -> _T | None:
    return next((value for value in values if value is not None), None)


def _check_flags(flags: Sequence[str]) -> None:
    """Raise ConfigError for flags of sbatch that are none of the user's here."""
    for flag in flags:
        name = flag.lstrip("-").partition("=")[0]
        if flag.startswith("-") and (name in OURS or (not flag.startswith("--") and name[:1] in OURS)):
            raise ConfigError(f"{flag}: can't be given to sbatch here; of these, a submission has its own: {OURS}")
