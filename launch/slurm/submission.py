"""A submission to Slurm: the call of sbatch, and the files of the job in `jobs/N/` of the run."""

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
from typing import TYPE_CHECKING

from dist_train.errors import ConfigError, SlurmError
from dist_train.run_dir import RunDir, write_whole
from launch.runs.history import JobHistory
from launch.slurm import client
from launch.slurm.resources import Resources

if TYPE_CHECKING:
    from dist_train.settings.schema import Config


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
    resume_command: str = ""
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

    def build_command(self) -> list[str]:
        flags = ["--parsable", "--export=ALL", f"--job-name={self.name}", f"--output={self.output}"]
        array = [f"--array={self.array}"] if self.array else []
        return ["sbatch", *flags, *array, *self.resources.build_flags(), str(self.script), *self.arguments]

    def format_command(self) -> str:
        """The whole call as a shell takes it."""
        variables = [f"{name}={value}" for name, value in self._build_environment().items()]
        return shlex.join(["env", *variables, *self.build_command()])

    def test(self, script: Path) -> str:
        """What Slurm says of such a job without queueing it; raises SlurmError if it could never run."""
        command = self.build_command()
        command[command.index(str(self.script))] = str(script)
        answer = _run_sbatch(["sbatch", "--test-only", *command[1:]], self._build_environment())
        return f"Slurm: such a job is {re.sub(r'^Job [0-9]+ ', '', answer)}"  # the number is that of no job

    def submit(self) -> str:
        """Queue the job, say so, and write down which it is; returns its number."""
        job = _run_sbatch(self.build_command(), self._build_environment()).partition(";")[0]
        about = {
            "job_id": job,
            "submitted": datetime.now(UTC).isoformat(timespec="seconds"),
            "nodes": self.resources.nodes,
            "ranks": self.resources.ranks,
            "array": self.array is not None,
            "command": self.resume_command,
        }
        what = "job array" if self.array else "job"
        print(f"{what} {job}: submitted{_warn_beyond_limits(job)}", flush=True)  # before anything can fail
        write_whole(self.directory / "job.json", json.dumps(about) + "\n")
        return job

    def _build_environment(self) -> dict[str, str]:
        own = {"DIST_TRAIN_COMMAND": self.resume_command}
        if self.trials:
            own["DIST_TRAIN_TRIALS"] = str(self.directory / "trials")
        return {**self.resources.build_environment(), **own}


def _run_sbatch(command: Sequence[str], variables: dict[str, str]) -> str:
    """Run sbatch, and show at once what it says while it waits for a place in a full queue."""
    try:
        process = subprocess.Popen(  # noqa: S603 (Slurm's own)
            command, env=remove_job_variables() | variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    except FileNotFoundError as error:
        raise SlurmError("sbatch: no such command here; submit on a login node of a Slurm cluster") from error
    with process:
        said = ""
        for line in process.stderr or ():
            said += line
            if "temporarily unable" in line:
                print(client.explain_refusal(command, line), file=sys.stderr, flush=True)
        answer = process.stdout.read().strip() if process.stdout else ""
    if process.returncode:
        raise SlurmError(client.explain_refusal(command, said))
    return answer or said.strip().removeprefix("sbatch: ")


def remove_job_variables() -> dict[str, str]:
    """This process's variables without those of a job that it may be part of: sbatch would hand them on."""
    kept = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
    of_job = ("DIST_TRAIN_TRIALS", "DIST_TRAIN_COMMAND", "DIST_TRAIN_CORES")
    return {
        name: value
        for name, value in os.environ.items()
        if (not name.startswith("SLURM_") or name in kept) and name not in of_job
    }


def build_resume_command(given: Sequence[str]) -> str:
    """The command of `given` arguments that goes on with what they have begun."""
    return shlex.join(["dist-train", *(each for each in given if each != "run.resume=never")])


def _warn_beyond_limits(job: str) -> str:
    """A warning where Slurm has taken a job that it will not start."""
    try:
        reasons = {known.reason for known in client.query_jobs([job]).values() if known.is_beyond_limits}
    except SlurmError:  # it has taken the job, and that is what counts
        return ""
    return "".join(
        f", but it waits ({reason}) until that limit is raised: cancel it, and ask for less"
        for reason in sorted(reasons)
    )


def check_submission(submission: Submission, is_dry: bool) -> None:
    """Ask Slurm whether such a job can ever run; for a dry run print what would be submitted, with Slurm or without."""
    if is_dry:
        print(f"{submission.format_command()}\n\n{find_script().read_text(encoding='utf-8')}", end="")
    if not is_dry or client.is_available():
        print(submission.test(find_script()))


def find_script() -> Path:
    """`slurm/train.sbatch` of a checkout, or where an installation has put it."""
    checkout = Path(__file__).parents[2] / "slurm" / "train.sbatch"
    return checkout if checkout.is_file() else Path(sysconfig.get_path("data")) / "share/dist-train/slurm/train.sbatch"


def find_next_number(run: RunDir) -> int:
    """Number of the next submission of a run, from 1."""
    return 1 + max((int(path.name) for path in run.jobs.glob("*") if path.name.isdecimal()), default=0)


def check_no_active_job(run: RunDir) -> None:
    """Raise ConfigError if a job of this run still waits or works."""
    for job in client.query_jobs(JobHistory.read(run.path).job_ids).values():
        if not job.is_over:
            raise ConfigError(
                f"run.dir {run.path}: its job {job.id} is {job.state}. Wait for its end, cancel it (dist-train cancel "
                f"{run.path}), or give this run another name (run.name=...)"
            )


def write_job_files(config: Path, submission: Submission) -> None:
    """Copy what the job is made of, so that nothing that is changed later changes the job."""
    directory = submission.directory
    try:
        directory.mkdir(parents=True)
        shutil.copyfile(config, directory / config.name)
        shutil.copyfile(find_script(), submission.script)
        write_whole(directory / "command.sh", f"#!/bin/sh\n{submission.format_command()}\n")
        for number, settings in submission.trials.items():
            (directory / "trials").mkdir(exist_ok=True)
            write_whole(directory / "trials" / str(number), "".join(f"{each}\n" for each in settings))
    except OSError as error:
        raise ConfigError(
            f"{directory}: can't be written: {error.strerror}; set run.dir to another directory"
        ) from error


@contextmanager
def prepare_run_dir(config: "Config", run: RunDir, directory: Path) -> Iterator[None]:
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
        _restore(run, directory, aside)
        raise


def _restore(run: RunDir, directory: Path, aside: Path | None) -> None:
    if aside:
        shutil.rmtree(run.path)
        aside.rename(run.path)
        print(f"nothing is queued; the earlier run is {run.path} again")
        return
    shutil.rmtree(directory, ignore_errors=True)
    with suppress(OSError):  # as far as they are empty
        run.jobs.rmdir()
        run.path.rmdir()


def build_job_overrides(config: "Config", overrides: Sequence[str]) -> list[str]:
    """The settings of the job. By the time it starts, what `run.resume=never` moves aside has been moved."""
    if config.run.resume != "never":
        return list(overrides)
    return [*(each for each in overrides if not each.startswith("run.resume=")), "run.resume=auto"]
