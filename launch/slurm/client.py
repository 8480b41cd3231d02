"""Run Slurm's commands, list jobs, and explain refusals."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dist_train.errors import SlurmError

TIMEOUT = 60.0  # seconds; longer than the timeout of the commands themselves when the controller is down
FIELDS = "%i|%A|%T|%r|%N|%S|%L|%j"
# Pattern of Slurm's message -> what it means and what to do.
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
    r"partition not available|Partition.*(down|inactive)": "the partition accepts no jobs now: use another "
    "--partition, or try later",
    r"Invalid job array": "task numbers of an array must be below MaxArraySize (`scontrol show config`): fewer trials "
    "per sweep; another run.name counts from 0 again",
    r"violates accounting|QOSMax|AssocMax|SubmitJobs|MaxSubmit": "your limit of jobs or resources is reached: cancel "
    "some (`squeue --me`), or wait until they end",
    r"temporarily unable to accept|temporarily unavailable|too many jobs|EAGAIN": "the queue is full: it accepts no "
    "more jobs now; try again later, or cancel some of yours (`squeue --me`)",
    r"Could not establish a configuration source|resolve_ctls": "there is no Slurm controller to be found from here: "
    "submit on a login node of the cluster",
    r"Unable to contact|Connection refused|Socket timed out|slurm_load_jobs error: Zero Bytes": "the Slurm controller "
    "does not answer: `scontrol ping`; try again later",
    r"[Ii]nvalid job id": "Slurm does not know this job any more",
    r"Access/permission denied": "the job belongs to another user, or the cluster does not allow this",
}


END_STATES = (
    *("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE"),
    *("OUT_OF_MEMORY", "REVOKED", "LAUNCH_FAILED", "RECONFIG_FAIL"),
)
"""Final states of a job."""


class Job(NamedTuple):
    """A job, or a task of a job array, as squeue lists it."""

    id: str
    """`12`; `12_3` for a task of an array; `12_[3-5]` for tasks that wait together."""
    number: str
    """The `SLURM_JOB_ID` of the job."""
    state: str
    """`PENDING`, `RUNNING`, `COMPLETING`, `COMPLETED`, `CANCELLED`, `FAILED`, `TIMEOUT`, `NODE_FAIL`, ..."""
    reason: str
    """Why it waits."""
    nodes: str
    start: str
    """Start time, past or expected; `N/A` if unknown."""
    time_left: str
    name: str

    @property
    def is_beyond_limits(self) -> bool:
        """Whether it waits because it exceeds a limit; most clusters never start such a job."""
        return self.state == "PENDING" and (self.reason.startswith("Partition") or "PerJob" in self.reason)

    @property
    def is_over(self) -> bool:
        return self.state in END_STATES


def is_available() -> bool:
    """Return whether this machine has Slurm's commands."""
    return shutil.which("sbatch") is not None


def run(*command: str) -> str:
    """Run a command of Slurm and return its output.

    Raises:
        SlurmError: the command is missing, fails or hangs; the message has Slurm's text and its meaning.
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
        raise SlurmError(f"{command[0]}: command not found; run this on a login node of a Slurm cluster") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(
            f"{command[0]}: no answer within {TIMEOUT:.0f} s; check the controller with `scontrol ping`"
        ) from error
    if done.returncode:
        raise SlurmError(explain_refusal(command, done.stderr or done.stdout))
    return done.stdout


def explain_refusal(command: Sequence[str], errors: str) -> str:
    """Return the error output of a command, followed by what it means where that is known."""
    lines = [line for line in errors.strip().splitlines() if line.strip()] or ["failed without a message"]
    meaning = next((meaning for pattern, meaning in MEANINGS.items() if re.search(pattern, errors)), None)
    named = [f"{command[0]}: {line.removeprefix(f'{command[0]}: ')}" for line in lines]
    return "\n".join([*named, f"  {meaning}"] if meaning else named)


def query_jobs(ids: Iterable[str]) -> dict[str, Job]:
    """Return those of the jobs that Slurm still knows, by `number`; for an array each of its tasks.

    It calls squeue once: with the id of a single job, or for all jobs of this user.

    Args:
        ids: ids as printed by `sbatch`, or values of `SLURM_JOB_ID`.
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
    """Return the environment without SQUEUE_ variables, which change the output of squeue."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
