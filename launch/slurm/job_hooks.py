"""Decide from what a job resumes and whether it is requeued; `slurm/train.sbatch` calls this around the training.

    python -m dist_train.command job begin CONFIG [key=value ...]     print the run.resume of this start
    python -m dist_train.command job restart CONFIG [key=value ...]   exit code 0: a rank was lost, start them again
    python -m dist_train.command job end CONFIG [key=value ...]       exit code 75: requeue the job; 0: it is done

A job may start several times: Slurm requeues it after the loss of a node, the script after a stop. Each start appends
a line to `jobs/starts.jsonl` of the run directory. From it the next start knows that the disk is the same, and
whether the job makes progress.
"""

import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from dist_train.checkpoint.store import Store
from dist_train.errors import CheckpointError, ConfigError
from dist_train.run_dir import RunDir
from dist_train.settings.loader import load_config
from dist_train.settings.schema import Config
from dist_train.system.append_file import AppendFile
from dist_train.system.environment import read_number
from dist_train.system.exit import FAILED, Parser, run_guarded
from dist_train.system.stop_signals import PREEMPTED
from launch.runs.history import STARTS, JobHistory, JobStart, read_starts

MAX_RESTARTS = 50
"""Default of `$DIST_TRAIN_MAX_RESTARTS`, the limit of the restarts of one job."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `begin`, `restart` or `end` and return the exit code."""
    parser = Parser(prog="python -m dist_train.command job", description=__doc__)
    parser.add_argument("moment", choices=("begin", "restart", "end"))
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args(arguments)
    config = load_config(options.config, options.overrides)
    if options.moment == "begin":
        print(begin(config, os.environ))
        return 0
    if options.moment == "restart":
        return 0 if has_lost_rank(RunDir(config.run.dir), os.environ) else FAILED
    code, why = end(RunDir(config.run.dir), os.environ)
    print(f"{config.run.name}: {why}", flush=True)
    return code


def begin(config: Config, environ: Mapping[str, str]) -> str:
    """Append this start to `starts.jsonl` and return its `run.resume`.

    Raises:
        ConfigError: the directory can't be used, or the job has restarted too often or without progress.
        CheckpointError: the job has started before, but its checkpoints are missing.
    """
    run, job, restart = RunDir(config.run.dir), _read_job_id(environ), _read_restart_count(environ)
    _read_max_restarts(environ)  # an invalid value is reported at the first start
    if restart == 0:
        resume = _prepare_first_start(config, run)
    else:
        earlier = [start for start in read_starts(run) if start.job_id == job]
        resume = _choose_resume(config, run, earlier, is_submitted=_is_submitted(run, environ))
        if why := _explain_no_progress(earlier, restart, run) or _explain_restart_limit(restart, environ):
            raise ConfigError(f"job {job}: {why}")
    step, output = _find_newest_step(run), environ.get("DIST_TRAIN_OUTPUT") or None
    _append_start(run, JobStart(job, restart, step, socket.gethostname(), _format_now(), output, _read_attempt(run)))
    return resume


def has_lost_rank(run: RunDir, environ: Mapping[str, str]) -> bool:
    """Whether the ranks of this job have ended by a failure from which the same command resumes."""
    status = run.read_status()
    if status is None or status.get("job_id") != _read_job_id(environ):
        return False
    has_trained = all(_read_attempt(run) > start.attempt for start in read_starts(run)[-1:])
    return has_trained and status["state"] not in ("done", "preempted") and bool(status.get("resumable"))


def end(run: RunDir, environ: Mapping[str, str]) -> tuple[int, str]:
    """Return the exit code, 0 (done), 75 (requeue) or 1 (do not requeue), and the reason."""
    job, restart = _read_job_id(environ), _read_restart_count(environ)
    status = run.read_status()
    if status is not None and status.get("job_id") == job:
        what, is_resumable = f"{status['state']} after step {status['step']}", bool(status.get("resumable"))
        if status["state"] == "done":
            return 0, what
    else:
        what, is_resumable = "this start did not reach the training", bool(environ.get("DIST_TRAIN_PREEMPTED"))
    if not is_resumable:
        return FAILED, f"{what}: the job is not requeued. See its output above for the reason"
    starts = [start for start in read_starts(run) if start.job_id == job]
    if why := _explain_no_progress(starts, restart + 1, run) or _explain_restart_limit(restart + 1, environ):
        return FAILED, f"{what}; {why}"
    return PREEMPTED, f"{what}; it can resume from step {_find_newest_step(run)}"


def _prepare_first_start(config: Config, run: RunDir) -> str:
    """Return `run.resume` of the first start; move an earlier run aside here, so that no later start does it again."""
    if config.run.resume != "never":
        run.check_usable(fresh_start=False)
        return config.run.resume
    run.check_usable(fresh_start=True)
    run.claim(fresh_start=True)
    run.release()
    return "auto"


def _choose_resume(config: Config, run: RunDir, earlier: list[JobStart], *, is_submitted: bool) -> str:
    """Return `run.resume` of a restart: the run itself, or the first start's value if nothing was saved yet.

    Args:
        earlier: the earlier starts of this job.
        is_submitted: `dist-train submit` wrote its `job.json` on this disk; a node can be lost before the first start
            is written.
    """
    if _find_newest_step(run):
        return str(run.path)
    if not (earlier or is_submitted) or any(start.step for start in earlier):
        raise CheckpointError(
            f"run.dir {run.path.absolute()}: has no checkpoint on host {socket.gethostname()}, though this job has "
            "started before: it was removed, or it is on a disk that this node does not share. The job ends instead of "
            "training from step 0. Set run.dir to a directory that all nodes share"
        )
    return "auto" if config.run.resume == "never" else config.run.resume


def _explain_no_progress(starts: list[JobStart], restart: int, run: RunDir) -> str | None:
    """Return why the job must not restart for the `restart`th time, if the restart before saved nothing new.

    One restart that did not reach the training is ignored: Slurm may have used a node that is not up yet.
    """
    newest = _find_newest_step(run)
    restarts = {start.restart: start for start in starts if start.restart}
    before, earlier = restarts.get(restart - 1), restarts.get(restart - 2)
    if before is None or newest > before.step:
        return None
    if _read_attempt(run) == before.attempt and (earlier is None or newest > earlier.step):
        return None
    return (
        f"restart {restart - 1} made no progress beyond step {newest}, so the job is not restarted. Check its output; "
        "submit it again to resume"
    )


def _is_submitted(run: RunDir, environ: Mapping[str, str]) -> bool:
    task = f"{environ.get('SLURM_ARRAY_JOB_ID')}_{environ.get('SLURM_ARRAY_TASK_ID')}"
    return any(each.job_id in (_read_job_id(environ), task) for each in JobHistory.read(run.path).submissions)


def _read_max_restarts(environ: Mapping[str, str]) -> int:
    text = environ.get("DIST_TRAIN_MAX_RESTARTS") or str(MAX_RESTARTS)
    if not text.isdecimal():
        raise ConfigError(f"DIST_TRAIN_MAX_RESTARTS is {text!r}; it must be a number from 0 up")
    return int(text)


def _explain_restart_limit(restart: int, environ: Mapping[str, str]) -> str | None:
    most = _read_max_restarts(environ)
    if restart <= most:
        return None
    return (
        f"it has started {restart} times, and DIST_TRAIN_MAX_RESTARTS allows {most} restarts; submit it again to resume"
    )


def _find_newest_step(run: RunDir) -> int:
    return max(Store(run.checkpoints).steps(), default=0)


def _read_attempt(run: RunDir) -> int:
    return int((run.read_status() or {}).get("attempt", 0))


def _append_start(run: RunDir, start: JobStart) -> None:
    run.jobs.mkdir(parents=True, exist_ok=True)
    lines = AppendFile(run.jobs / STARTS)
    lines.write(json.dumps(asdict(start)) + "\n")
    lines.sync()
    lines.close()


def _read_job_id(environ: Mapping[str, str]) -> str:
    if "SLURM_JOB_ID" not in environ:
        raise ConfigError("SLURM_JOB_ID is not set: only slurm/train.sbatch calls this, in a job")
    return environ["SLURM_JOB_ID"]


def _read_restart_count(environ: Mapping[str, str]) -> int:
    return read_number(environ, "SLURM_RESTART_COUNT", 0)


def _format_now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


if __name__ == "__main__":  # scripts of jobs that an earlier version has submitted
    sys.exit(run_guarded(main))
