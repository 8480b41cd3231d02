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
from launch.runs.history import History
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
def prepared(config: "Config", run: RunDir, directory: Path) -> Iterator[None]:
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


def job_overrides(config: "Config", overrides: Sequence[str]) -> list[str]:
    """The settings of the job. By the time it starts, what `run.resume=never` moves aside has been moved."""
    if config.run.resume != "never":
        return list(overrides)
    return [*(each for each in overrides if not each.startswith("run.resume=")), "run.resume=auto"]
