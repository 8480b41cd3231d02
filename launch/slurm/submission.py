"""Submit a job to Slurm: the call of sbatch, and the files of the job in `jobs/N/` of the run directory."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from dist_train.errors import ConfigError, SlurmError
from dist_train.installation import find_own
from dist_train.recipes import copy_settings
from dist_train.run_dir import RunDir, write_atomically
from dist_train.system.read_file import list_directory
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
    """`jobs/N`; the output of the job is written next to it."""
    arguments: tuple[str, ...]
    """CONFIG and key=value."""
    trials: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """The key=value of each task of a job array, by task number."""
    max_parallel: int | None = None
    """Limit of the tasks that run at once; None: no limit."""
    resume_command: str = ""
    """The command with which a user resumes the run."""

    @property
    def array(self) -> str | None:
        """The task numbers of a job array in sbatch's format."""
        limit = f"%{self.max_parallel}" if self.max_parallel else ""
        return ",".join(map(str, self.trials)) + limit if self.trials else None

    @property
    def script(self) -> Path:
        return self.directory / "train.sbatch"

    @property
    def output(self) -> str:
        """The output file as a pattern of sbatch, in which % starts a placeholder."""
        return str(self.directory.parent).replace("%", "%%") + ("/slurm-%A_%a.out" if self.array else "/slurm-%j.out")

    def build_command(self) -> list[str]:
        """Build the command line of sbatch."""
        flags = ["--parsable", "--export=ALL", f"--job-name={self.name}", f"--output={self.output}"]
        array = [f"--array={self.array}"] if self.array else []
        return ["sbatch", *flags, *array, *self.resources.build_flags(), str(self.script), *self.arguments]

    def format_command(self) -> str:
        """Format the call with its environment variables as a line of shell."""
        variables = [f"{name}={value}" for name, value in self._build_environment().items()]
        return shlex.join(["env", *variables, *self.build_command()])

    def test(self, script: Path) -> str:
        """Ask Slurm about the job without queueing it; raises SlurmError if it could never run."""
        command = self.build_command()
        command[command.index(str(self.script))] = str(script)
        answer = _run_sbatch(["sbatch", "--test-only", *command[1:]], self._build_environment())
        return f"Slurm: such a job is {re.sub(r'^Job [0-9]+ ', '', answer)}"  # the number belongs to no job

    def submit(self) -> str:
        """Queue the job, print its id, write `job.json`, and return the id."""
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
        write_atomically(self.directory / "job.json", json.dumps(about) + "\n")
        return job

    def _build_environment(self) -> dict[str, str]:
        own = {"DIST_TRAIN_COMMAND": self.resume_command}
        if self.trials:
            own["DIST_TRAIN_TRIALS"] = str(self.directory / "trials")
        return {**self.resources.build_environment(), **own}


def prepare_submission(
    config: "Config", path: Path, overrides: Sequence[str], resources: Resources, resume_command: str
) -> Submission:
    """Return the next submission of a run; nothing is written.

    Args:
        config: the settings of the run.
        path: CONFIG; the job trains a copy of it.
        overrides: key=value as given.
        resources: checked against `config`.
        resume_command: the command with which a user resumes the run.
    """
    run = RunDir(config.run.dir)
    directory = run.jobs / str(find_next_number(run))
    arguments = (str(directory / path.name), *_build_job_overrides(config, overrides))
    return Submission(resources, config.run.name, directory, arguments, resume_command=resume_command)


def check_submission(submission: Submission, is_dry_run: bool) -> None:
    """Ask Slurm whether the job can ever run; for a dry run print command and script, also without Slurm."""
    if is_dry_run:
        print(f"{submission.format_command()}\n\n{find_script().read_text(encoding='utf-8')}", end="")
    if not is_dry_run or client.is_available():
        print(submission.test(find_script()))


def submit_run(submission: Submission, config: "Config", path: Path) -> None:
    """Write the files of the job and queue it; if Slurm refuses, restore the run directory.

    Raises:
        ConfigError: another job of this run is active, or the run directory can't be used.
        SlurmError: Slurm refuses the job.
    """
    run = RunDir(config.run.dir)
    check_no_active_job(run)
    with _prepare_run_dir(config, run, submission.directory):
        write_job_files(path, submission)
        submission.submit()


def build_resume_command(arguments: Sequence[str]) -> str:
    """Return the `dist-train` command that resumes what `arguments` started."""
    return shlex.join(["dist-train", *(each for each in arguments if each != "run.resume=never")])


def find_script() -> Path:
    """Return the path of `slurm/train.sbatch`."""
    return find_own("slurm/train.sbatch")


def find_next_number(run: RunDir) -> int:
    """Return the number of the next submission of a run, from 1."""
    names = [path.name for path in list_directory(run.jobs)]
    return 1 + max((int(name) for name in names if re.fullmatch("[0-9]{1,9}", name)), default=0)


def check_no_active_job(run: RunDir) -> None:
    """Raise ConfigError if a job of this run is queued or running."""
    for job in client.query_jobs(JobHistory.read(run.path).job_ids).values():
        if not job.is_over:
            raise ConfigError(
                f"run.dir {run.path}: its job {job.id} is {job.state}. Wait for its end, cancel it (dist-train cancel "
                f"{run.path}), or set another run.name"
            )


def write_job_files(config: Path, submission: Submission) -> None:
    """Copy CONFIG and the script to the directory of the job, so that later edits do not change the job.

    The user's code is not copied: a job runs what it finds when it starts.
    """
    directory = submission.directory
    try:
        directory.mkdir(parents=True)
        copy_settings(config, directory / config.name)
        shutil.copyfile(find_script(), submission.script)
        write_atomically(directory / "command.sh", f"#!/bin/sh\n{submission.format_command()}\n")
        for number, settings in submission.trials.items():
            (directory / "trials").mkdir(exist_ok=True)
            write_atomically(directory / "trials" / str(number), "".join(f"{each}\n" for each in settings))
    except OSError as error:
        raise ConfigError(
            f"{directory}: can't be written: {error.strerror}; set run.dir to another directory"
        ) from error


def remove_job_variables() -> dict[str, str]:
    """Return the environment without the variables of the job around this process, which sbatch would pass on."""
    kept = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
    of_job = ("DIST_TRAIN_TRIALS", "DIST_TRAIN_COMMAND", "DIST_TRAIN_CORES")
    return {
        name: value
        for name, value in os.environ.items()
        if (not name.startswith("SLURM_") or name in kept) and name not in of_job
    }


def _run_sbatch(command: Sequence[str], variables: dict[str, str]) -> str:
    """Run sbatch and return its answer; print the reason while it retries because the queue is full."""
    try:
        process = subprocess.Popen(  # noqa: S603 (Slurm's own)
            command, env=remove_job_variables() | variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    except FileNotFoundError as error:
        raise SlurmError("sbatch: command not found; submit on a login node of a Slurm cluster") from error
    with process:
        errors = ""
        for line in process.stderr or ():
            errors += line
            if "temporarily unable" in line:
                print(client.explain_refusal(command, line), file=sys.stderr, flush=True)
        answer = process.stdout.read().strip() if process.stdout else ""
    if process.returncode:
        raise SlurmError(client.explain_refusal(command, errors))
    return answer or errors.strip().removeprefix("sbatch: ")


def _warn_beyond_limits(job: str) -> str:
    """Return a warning if Slurm has queued a job that exceeds the limits of its partition, else nothing."""
    try:
        reasons = {known.reason for known in client.query_jobs([job]).values() if known.is_beyond_limits}
    except SlurmError:  # the job is queued all the same
        return ""
    return "".join(
        f", but it waits ({reason}) until that limit is raised: cancel it and ask for less"
        for reason in sorted(reasons)
    )


@contextmanager
def _prepare_run_dir(config: "Config", run: RunDir, directory: Path) -> Iterator[None]:
    """Under `run.resume=never` move an earlier run aside before the job's files are written; undo that on errors."""
    is_fresh = config.run.resume == "never"
    run.check_usable(is_fresh)
    aside = run.claim(is_fresh) if is_fresh else None
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
    with suppress(OSError):  # only if they are empty
        run.jobs.rmdir()
        run.path.rmdir()


def _build_job_overrides(config: "Config", overrides: Sequence[str]) -> list[str]:
    """Replace `run.resume=never` by `auto`: the earlier run is moved aside on submission, not again at the start."""
    if config.run.resume != "never":
        return list(overrides)
    return [*(each for each in overrides if not each.startswith("run.resume=")), "run.resume=auto"]
