"""What Slurm answers, asked through its own commands, and what its refusals mean."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dist_train.errors import SlurmError

TIMEOUT = 60.0  # seconds; a controller that is down makes a command wait for its own timeout first
FIELDS = "%i|%A|%T|%r|%N|%S|%L|%j"
# What Slurm says -> what it means, and what to do.
MEANINGS = {
    r"invalid partition": "no such partition; `sinfo -s` lists them (--partition)",
    r"[Rr]equested node configuration is not available|Node count specification invalid|"
    r"More processors requested than permitted": "the partition has no such nodes: fewer --nodes, --gpus-per-node, "
    "--cpus-per-task or --mem, or another --partition; `sinfo -o '%P %D %c %m %G %l'` shows what each has",
    r"Invalid generic resource|gres": "these nodes have no such GPUs; `sinfo -o '%P %G'` shows what each partition has",
    r"[Ii]nvalid account|account/partition": "the account may not use this partition: --account, --partition; "
    "`sacctmgr show associations user=$USER` lists yours",
    r"[Ii]nvalid qos": "no such quality of service, or not yours: --qos; `sacctmgr show associations user=$USER "
    "format=qos`",
    r"time limit": "longer than the partition allows: a shorter --time; `sinfo -o '%P %l'` shows the limits",
    r"Memory specification": "more memory than a node of the partition has: a smaller --mem",
    r"partition not available|Partition.*(down|inactive)": "the partition takes no jobs now: another --partition, or "
    "later",
    r"Invalid job array": "an array takes numbers below MaxArraySize (`scontrol show config`): fewer trials in one "
    "sweep; another run.name counts from 0 again",
    r"violates accounting|QOSMax|AssocMax|SubmitJobs|MaxSubmit": "your limit of jobs or resources is reached: cancel "
    "some (`squeue --me`), or wait until they end",
    r"temporarily unable to accept|temporarily unavailable|too many jobs|EAGAIN": "the queue is full: it takes no more "
    "jobs now; try again later, or cancel some of yours (`squeue --me`)",
    r"Unable to contact|Connection refused|Socket timed out|slurm_load_jobs error: Zero Bytes": "the Slurm controller "
    "does not answer: `scontrol ping`; try again later",
    r"[Ii]nvalid job id": "Slurm does not know this job any more",
    r"Access/permission denied": "the job is somebody else's, or the cluster does not let you do this",
}


END_STATES = (
    *("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE"),
    *("OUT_OF_MEMORY", "REVOKED", "LAUNCH_FAILED", "RECONFIG_FAIL"),
)
"""States that a job does not leave by itself."""


class Job(NamedTuple):
    """A job, or a task of a job array, that Slurm has in its memory."""

    id: str
    """As a user writes it: `12`, `12_3` for a task of an array, `12_[3-5]` for tasks that wait together."""
    number: str
    """`SLURM_JOB_ID` in the job."""
    state: str
    """`PENDING`, `RUNNING`, `COMPLETING`, `COMPLETED`, `CANCELLED`, `FAILED`, `TIMEOUT`, `NODE_FAIL`, ..."""
    reason: str
    """Why it waits."""
    nodes: str
    start: str
    """When it has started, or is expected to; `N/A` where nobody knows."""
    time_left: str
    name: str

    @property
    def is_beyond_limits(self) -> bool:
        """Whether it waits because it asks for more than it may have: for ever, on most clusters."""
        return self.state == "PENDING" and (self.reason.startswith("Partition") or "PerJob" in self.reason)

    @property
    def is_over(self) -> bool:
        return self.state in END_STATES


def is_available() -> bool:
    """Whether this machine has Slurm's commands."""
    return shutil.which("sbatch") is not None


def run(*command: str) -> str:
    """Run a command of Slurm's; returns what it prints.

    Raises:
        SlurmError: there is no Slurm here, or it refuses; the message has what it said and what that means.
    """
    try:
        done = subprocess.run(  # noqa: S603 (Slurm's own)
            command,
            env=_build_environment(),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            check=False,
        )
    except FileNotFoundError as error:
        raise SlurmError(
            f"{command[0]}: no such command here; start this on a login node of a Slurm cluster"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(
            f"{command[0]}: has not answered within {TIMEOUT:.0f} s; `scontrol ping` asks for it"
        ) from error
    if done.returncode:
        raise SlurmError(explain_refusal(command, done.stderr or done.stdout))
    return done.stdout


def explain_refusal(command: Sequence[str], said: str) -> str:
    """What a command has said, and what it means."""
    lines = [line for line in said.strip().splitlines() if line.strip()] or ["it has failed, and does not say why"]
    meaning = next((meaning for pattern, meaning in MEANINGS.items() if re.search(pattern, said)), None)
    return "\n".join(
        [*(f"{command[0]}: {line.removeprefix(f'{command[0]}: ')}" for line in lines), *_indented(meaning)]
    )


def query_jobs(ids: Iterable[str]) -> dict[str, Job]:
    """The jobs that Slurm still knows of those, by `number`; all tasks of an array by each of theirs.

    Slurm is asked once: of one job by its number, of several for all that this user has.

    Args:
        ids: as `sbatch` printed them, or a `SLURM_JOB_ID`.
    """
    asked = set(ids)
    if not asked:
        return {}
    which = f"--jobs={next(iter(asked))}" if len(asked) == 1 else f"--user={os.getuid()}"
    return {job.number: job for job in _list_jobs(which) if asked & {job.number, job.id, job.id.partition("_")[0]}}


def _list_jobs(which: str) -> list[Job]:
    try:
        lines = run("squeue", "--noheader", "--array", "--states=all", f"--format={FIELDS}", which).splitlines()
    except SlurmError as error:
        if MEANINGS["[Ii]nvalid job id"] in str(error):
            return []
        raise
    return [Job(*line.split("|", 7)) for line in lines if line.count("|") >= 7]


def _build_environment() -> dict[str, str]:
    """This process's variables without those by which a user has squeue show less, or in another order."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}


def _indented(meaning: str | None) -> list[str]:
    return [f"  {meaning}"] if meaning else []
