"""Read the state and progress of runs from their files and from Slurm."""

import logging
import re
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from dist_train.diagnostics.heartbeat import read_heartbeats
from dist_train.diagnostics.verdict import Verdict, read_verdict
from dist_train.errors import ConfigError, SlurmError
from dist_train.eval_line import Monitor, list_numbers
from dist_train.run_dir import RunDir, Status
from dist_train.system.escape import escape
from dist_train.system.process import read_process_state
from dist_train.system.read_file import is_file
from launch.runs.find import RUNS, is_run, read_status
from launch.runs.history import JobHistory, parse_time
from launch.runs.progress import Line, find_idle_time, read_newest
from launch.runs.run_settings import read_global_batch, read_monitor, read_settings
from launch.runs.states import ACTIVE, State, determine_state
from launch.runs.unreadable import find_unreadable
from launch.slurm import client
from launch.slurm.client import Job
from launch.sweeps import sweep_dir
from launch.sweeps.sweep_dir import Trial, find_trial, refuse_sweep

MAX_SECONDS = 1e9  # of a time left that is shown: 31 years
MIN_RATE = 1e-6  # samples per second that are believed
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunSnapshot:
    """State and progress of a run at one moment."""

    path: Path
    status: Status
    """Content of `status.json`; empty if it is missing or can't be read."""
    status_fault: str | None
    """Why `status.json` can't be read."""
    history: JobHistory
    state: State
    job: Job | None
    """The newest job; None if there is none, Slurm is not available or does not know it any more."""
    active_jobs: tuple[Job, ...]
    """All jobs that are queued or running."""
    pid: int | None
    """The process to stop: the launcher, else rank 0; None if neither is on this machine."""

    @property
    def is_active(self) -> bool:
        """Whether it trains, or will without a further command."""
        return self.state in ACTIVE

    @cached_property
    def unreadable(self) -> dict[str, str]:
        """Why files of the run can't be read, by their names."""
        return find_unreadable(RunDir(self.path), self.status_fault)

    @property
    def is_of_job(self) -> bool:
        """Whether the last start, or the next, is that of a Slurm job."""
        updated, newest = parse_time(self.status.get("updated")), self.history.newest
        is_later = newest is not None and (updated is None or updated < newest)
        return bool(self.active_jobs) or is_later or self.status.get("job_id") in self.history.job_ids

    @property
    def total_steps(self) -> int | None:
        return self.status.get("total_steps")

    @property
    def step(self) -> int:
        """Finished steps, from `status.json` or `metrics.jsonl`."""
        return max(self.status.get("step", 0), self.last_train_line["step"] if self.last_train_line else 0)

    @cached_property
    def last_train_line(self) -> Line | None:
        """The newest line of kind `train` in `metrics.jsonl`."""
        return next(read_newest(self.path, "train"), None)

    @cached_property
    def last_eval_line(self) -> Line | None:
        """The newest line of kind `eval` in `metrics.jsonl`."""
        return next(read_newest(self.path, "eval"), None)

    @cached_property
    def monitor(self) -> Monitor:
        """The number of an evaluation by which the run is judged."""
        return read_monitor(self.path, self.last_eval_line or {})

    @cached_property
    def score(self) -> float | None:
        """The best value of that number, on the split by which the run chooses its best checkpoint."""
        scores: dict[str, list[float]] = {}
        for line in read_newest(self.path, "eval"):
            value = list_numbers(line).get(self.monitor.name)
            if value is not None:
                scores.setdefault(line["split"], []).append(value)
        split = read_settings(self.path).get("checkpoint.split")
        found = scores.get(str(split)) or scores.get("validation") or scores.get("test") or []
        return (max if self.monitor.higher_is_better else min)(found, default=None)

    @property
    def rate(self) -> float | None:
        """Samples per second over all ranks."""
        return float(self.last_train_line["samples_per_second"]) if self.last_train_line else None

    @cached_property
    def seconds_per_step(self) -> float | None:
        """The usual time of a step; None if it is unknown."""
        batch = read_global_batch(self.path)
        return batch / self.rate if batch and self.rate and self.rate > MIN_RATE else None

    @cached_property
    def idle(self) -> tuple[float, str] | None:
        """Seconds without progress and the phase, if it trains and those are more than usual."""
        if self.state != "running":
            return None
        return find_idle_time(self.path, self.updated, self.seconds_per_step or 0.0, is_here=self.pid is not None)

    @property
    def seconds_left(self) -> float | None:
        """Remaining seconds at the usual rate; None if it makes no progress, or if that is unknown or beyond reason."""
        if self.state != "running" or self.idle or not self.seconds_per_step or not self.total_steps:
            return None
        left = max(0, self.total_steps - self.step) * self.seconds_per_step
        return left if left < MAX_SECONDS else None

    @property
    def restarts_in_place(self) -> int:
        return self.status.get("restarts", 0)

    @property
    def job_restarts(self) -> int:
        """Number of restarts of the newest job."""
        return self.history.starts[-1].restart if self.is_of_job and self.history.starts else 0

    @property
    def verdict(self) -> Verdict | None:
        """The root cause of a failure, if it is known."""
        return read_verdict(self.path) if self.state in ("failed", "dead") else None

    @property
    def start_command(self) -> str | None:
        """The command that starts it again, if it is known."""
        if self.is_of_job and self.history.submissions:
            return self.history.submissions[-1].command
        beats = read_heartbeats(RunDir(self.path).diagnostics).values()
        return next((beat.process.next_command for beat in beats if beat.process.next_command), None)

    @property
    def resume_command(self) -> str | None:
        """The command that resumes it; None if it is active, done or not resumable."""
        is_final = self.is_active or self.state in ("done", "unknown", "not begun")
        return None if is_final or not self.status.get("resumable", True) else self.start_command

    @property
    def updated(self) -> datetime | None:
        """Time of its newest status, submission or start."""
        times = (parse_time(self.status.get("updated")), self.history.newest)
        return max((time for time in times if time), default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return the snapshot as a JSON object, for `dist-train status --json`."""
        verdict, updated = self.verdict, self.updated
        return {
            "run": str(self.path),
            "state": self.state,
            "step": self.step,
            "total_steps": self.total_steps,
            "epoch": self.status.get("epoch"),
            "samples_per_second": self.rate,
            "seconds_left": self.seconds_left,
            "seconds_without_progress": self.idle[0] if self.idle else None,
            "score": self.score,
            "evaluation": {k: v for k, v in self.last_eval_line.items() if k != "per_class"}
            if self.last_eval_line
            else None,
            "restarts": {"in_place": self.restarts_in_place, "job": self.job_restarts},
            "job": self.job._asdict() if self.job else None,
            "host": self.status.get("host"),
            "pid": self.status.get("pid"),
            "attempt": self.status.get("attempt"),
            "resumable": self.status.get("resumable"),
            "updated": updated.isoformat() if updated else None,
            "verdict": verdict.to_dict() if verdict else None,
            "go_on": self.resume_command,
            "unreadable": self.unreadable,
        }


def read_run(path: Path) -> RunSnapshot:
    """Read the snapshot of one run; a trial of a sweep may not have begun.

    Raises:
        ConfigError: the directory is not that of a run.
    """
    refuse_sweep(path)
    if not is_run(path) and find_trial(path) is None:
        guess = f" Did you mean {escape(RUNS / path)}?" if is_run(RUNS / path) else ""
        raise ConfigError(
            f"{escape(path)}: is not a run: it has no status.json, run.lock or jobs/.{guess} `dist-train status` lists "
            f"the runs in {RUNS}/"
        )
    return read_runs([path])[0]


def read_runs(paths: Iterable[Path]) -> list[RunSnapshot]:
    """Read the snapshots of several runs; trials of a sweep may not have begun.

    squeue is called at most once, and not for runs whose files say that their newest job is done.
    """
    found = [(path, *read_status(path), JobHistory.read(path)) for path in paths]
    answers = _query_jobs({job for _, status, _, history in found for job in _list_open_jobs(status, history)})
    return [_build_snapshot(*files, answers) for files in found]


def _build_snapshot(
    path: Path, status: Status, fault: str | None, history: JobHistory, answers: Mapping[str, Job | None]
) -> RunSnapshot:
    ids = history.job_ids  # without an interactive job in which the run was started
    known = [job for each in ids if (job := answers.get(each)) is not None]
    active = tuple({job.number: job for job in known if not job.is_over}.values())
    newest = max(ids, key=_parse_job_number, default=None)
    job = max(active, key=_rank_job, default=answers.get(newest or ""))
    pid = _find_launcher(status) or _find_first_rank(path, status)
    state = determine_state(
        status,
        job,
        history.newest,
        is_gone=newest in answers and job is None,
        is_alive=pid is not None or (not status and _is_held(path)),
    )
    is_lost = fault is not None or (state == "not begun" and is_file(RunDir(path).metrics))
    if is_lost and not active:
        state = "unknown"
    return RunSnapshot(path, status, fault, history, state, job, active, pid)


def _is_held(path: Path) -> bool:
    with suppress(OSError):
        return bool(RunDir(path).is_held())
    return False


def _list_open_jobs(status: Status, history: JobHistory) -> list[str]:
    """Return the jobs whose state only Slurm knows: none if the newest job finished the run."""
    newest = max(history.job_ids, key=_parse_job_number, default=None)
    return [] if status.get("state") == "done" and status.get("job_id") == newest else history.job_ids


def _query_jobs(ids: Iterable[str]) -> dict[str, Job | None]:
    """Return the job of each id, None if Slurm does not know it any more; empty without Slurm."""
    answers: dict[str, Job | None] = {}
    try:
        named = list(ids) if client.is_available() else []
        known = client.query_jobs(named).values()
        answers = {each: next((job for job in known if each in (job.number, job.id)), None) for each in named}
    except SlurmError as error:
        _log.warning("%s", error)
    return answers


def _parse_job_number(job_id: str) -> int:
    return int(job_id.partition("_")[0])


def _rank_job(job: Job) -> tuple[bool, int]:
    return (job.state != "PENDING", _parse_job_number(job.number))


def _find_launcher(status: Status) -> int | None:
    """Return the pid of the launcher, if it runs on this machine; its start time guards against a reused pid."""
    found = re.fullmatch(r".* (\S+) ([0-9]{1,9}) ([0-9]{1,18})", status.get("launcher") or "", re.DOTALL)
    if found is None or found[1] != socket.gethostname():
        return None
    return int(found[2]) if read_process_state(int(found[2]), int(found[3])) != "X" else None


def _find_first_rank(path: Path, status: Status) -> int | None:
    """Return the pid of rank 0, if it runs on this machine."""
    beat = read_heartbeats(RunDir(path).diagnostics).get(0)
    is_alive = beat is not None and beat.is_on_this_host and beat.process.pid == status.get("pid") and beat.is_alive()
    return beat.process.pid if beat is not None and is_alive else None


def rank_trials(sweep: Path) -> list[tuple[Trial, RunSnapshot]]:
    """Return the trials of a sweep, the best score first, those without a score last.

    Raises:
        ConfigError: `sweep.json` is damaged.
    """
    trials = sweep_dir.read_trials(sweep)
    rows = zip(trials, read_runs([trial.path for trial in trials]), strict=True)
    return sorted(rows, key=lambda row: _rank_score(row[1]))


def _rank_score(run: RunSnapshot) -> float:
    """Return a number that is smaller for a better run, and infinite for one without a score."""
    if run.score is None:
        return float("inf")
    return -run.score if run.monitor.higher_is_better else run.score
