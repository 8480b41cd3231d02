"""How a run is doing: what lies in its directory, and what Slurm says of its jobs."""

import logging
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from dist_train.diagnostics.heartbeat import process_state, read_heartbeats
from dist_train.diagnostics.root_cause import Verdict, read_verdict
from dist_train.errors import ConfigError, SlurmError
from dist_train.run_dir import RunDir
from launch.runs.find import RUNS, is_run, read_status
from launch.runs.history import History, moment
from launch.runs.states import ACTIVE, State, judge
from launch.slurm import client
from launch.slurm.client import Job
from launch.sweeps import sweep_dir
from launch.sweeps.sweep_dir import Trial, is_sweep, trial_of, trials

Line = dict[str, Any]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A run at one moment."""

    path: Path
    status: Mapping[str, Any]
    """Content of `status.json`, empty where there is none."""
    history: History
    state: State
    job: Job | None
    """What Slurm says of the newest job; None where there was none, or Slurm can't be asked or has forgotten it."""
    active_jobs: tuple[Job, ...]
    """All that wait or work."""
    pid: int | None
    """The process of this machine to ask for a stop: the launcher, else rank 0; None where neither is here."""

    @property
    def is_active(self) -> bool:
        """Whether it trains, or is going to without anybody's doing."""
        return self.state in ACTIVE

    @property
    def is_damaged(self) -> bool:
        """Whether it has a `status.json` that is none."""
        return not self.status and RunDir(self.path).status.exists()

    @property
    def is_of_job(self) -> bool:
        """Whether a job has started it last, or is about to."""
        updated, newest = moment(self.status.get("updated")), self.history.newest
        is_later = newest is not None and (updated is None or updated < newest)
        return bool(self.active_jobs) or is_later or self.status.get("job_id") in self.history.job_ids

    @property
    def total_steps(self) -> int | None:
        return self.status.get("total_steps")

    @property
    def step(self) -> int:
        """Finished steps, as far as anything tells of them."""
        return max(int(self.status.get("step") or 0), self.trained["step"] if self.trained else 0)

    @cached_property
    def trained(self) -> Line | None:
        """The newest line of kind `train`."""
        from dist_train.monitoring.metrics import newest_lines

        return next(newest_lines(RunDir(self.path).metrics, "train"), None)

    @cached_property
    def evaluated(self) -> Line | None:
        """The newest line of kind `eval`."""
        from dist_train.monitoring.metrics import newest_lines

        return next(newest_lines(RunDir(self.path).metrics, "eval"), None)

    @cached_property
    def score(self) -> float | None:
        """The best accuracy: of the validation split where there is one, else of the test split."""
        from dist_train.monitoring.metrics import newest_lines

        scores: dict[str, list[float]] = {}
        for line in newest_lines(RunDir(self.path).metrics, "eval"):
            scores.setdefault(line["split"], []).append(line["accuracy"])
        return max(scores.get("validation") or scores.get("test") or [], default=None)

    @property
    def rate(self) -> float | None:
        """Samples a second over all ranks, by the newest line of metrics."""
        return float(self.trained["samples_per_second"]) if self.trained else None

    @cached_property
    def seconds_left(self) -> float | None:
        """Of training at this rate; None where it does not train, or nobody knows."""
        if self.state != "running" or not self.rate or not self.total_steps:
            return None
        batch = _global_batch(RunDir(self.path).config)
        return max(0, self.total_steps - self.step) * batch / self.rate if batch else None

    @property
    def restarts_in_place(self) -> int:
        return int(self.status.get("restarts") or 0)

    @property
    def restarts_of_job(self) -> int:
        """How often Slurm has started the newest job anew."""
        return self.history.starts[-1].restart if self.is_of_job and self.history.starts else 0

    @property
    def verdict(self) -> Verdict | None:
        """What has ended it, where it has failed and somebody has judged."""
        return read_verdict(self.path) if self.state in ("failed", "dead") else None

    @property
    def command(self) -> str | None:
        """What starts it again, where that is known."""
        if self.is_of_job and self.history.submissions:
            return self.history.submissions[-1].command
        beats = read_heartbeats(RunDir(self.path).diagnostics).values()
        return next((beat.origin.next_command for beat in beats if beat.origin.next_command), None)

    @property
    def go_on(self) -> str | None:
        """The command that goes on with it; None where none has to, or would."""
        is_settled = self.is_active or self.state in ("done", "unknown", "not begun")
        return None if is_settled or not self.status.get("resumable", True) else self.command

    @property
    def updated(self) -> datetime | None:
        """When something was heard of it last."""
        times = (moment(self.status.get("updated")), self.history.newest)
        return max((time for time in times if time), default=None)

    def to_dict(self) -> dict[str, Any]:
        """All of this as JSON takes it."""
        verdict, updated = self.verdict, self.updated
        return {
            "run": str(self.path),
            "state": self.state,
            "step": self.step,
            "total_steps": self.total_steps,
            "epoch": self.status.get("epoch"),
            "samples_per_second": self.rate,
            "seconds_left": self.seconds_left,
            "score": self.score,
            "evaluation": {k: v for k, v in self.evaluated.items() if k != "per_class"} if self.evaluated else None,
            "restarts": {"in_place": self.restarts_in_place, "job": self.restarts_of_job},
            "job": self.job._asdict() if self.job else None,
            "host": self.status.get("host"),
            "pid": self.status.get("pid"),
            "attempt": self.status.get("attempt"),
            "resumable": self.status.get("resumable"),
            "updated": updated.isoformat() if updated else None,
            "verdict": verdict.to_dict() if verdict else None,
            "go_on": self.go_on,
        }


def read(path: Path) -> Run:
    """How the run in a directory is doing; one of a sweep may not have begun.

    Raises:
        ConfigError: there is no run.
    """
    if is_sweep(path):
        names = ", ".join(trial.path.name for trial in trials(path)[:3])
        raise ConfigError(f"{path}: is a sweep; give one of its trials, the directories in it ({names}, ...)")
    if not is_run(path) and trial_of(path) is None:
        guess = f" Did you mean {RUNS / path}?" if is_run(RUNS / path) else ""
        raise ConfigError(
            f"{path}: is no run: it has no status.json, no run.lock and no jobs/.{guess} `dist-train status` lists the "
            f"runs below {RUNS}/"
        )
    return read_all([path])[0]


def read_all(paths: Iterable[Path]) -> list[Run]:
    """How several runs are doing, of which some may not have begun.

    Slurm is asked only of jobs of which the files leave something open.
    """
    found = [(path, read_status(path), History.of(path)) for path in paths]
    answers = _asked({job for _, status, history in found for job in _open_jobs(status, history)})
    return [_run(path, status, history, answers) for path, status, history in found]


def _run(path: Path, status: Mapping[str, Any], history: History, answers: Mapping[str, Job | None]) -> Run:
    ids = history.job_ids  # a job that only surrounds the training, such as an interactive one, is not the run's
    known = [job for each in ids if (job := answers.get(each)) is not None]
    active = tuple({job.number: job for job in known if not job.is_over}.values())
    newest = max(ids, key=_order, default=None)
    job = max(active, key=_works_and_is_new, default=answers.get(newest or ""))
    pid = _launcher(status) or _first_rank(path, status)
    state = judge(
        status,
        job,
        history.newest,
        is_gone=newest in answers and job is None,
        is_alive=pid is not None or (not status and bool(RunDir(path).is_held())),
    )
    if not status and not active and RunDir(path).status.exists():
        state = "unknown"
    return Run(path, status, history, state, job, active, pid)


def _open_jobs(status: Mapping[str, Any], history: History) -> list[str]:
    """The jobs that Slurm has to be asked of: none where the newest has brought the run to its end."""
    newest = max(history.job_ids, key=_order, default=None)
    return [] if status.get("state") == "done" and status.get("job_id") == newest else history.job_ids


def _asked(ids: Iterable[str]) -> dict[str, Job | None]:
    """What Slurm says of each job, None of one that it does not know any more; nothing where it can't be asked."""
    answers: dict[str, Job | None] = {}
    try:
        named = list(ids) if client.is_here() else []
        known = client.jobs(named).values()
        answers = {each: next((job for job in known if each in (job.number, job.id)), None) for each in named}
    except SlurmError as error:
        _log.warning("%s", error)
    return answers


def _order(job_id: str) -> int:
    """Slurm counts its jobs."""
    return int(job_id.partition("_")[0])


def _works_and_is_new(job: Job) -> tuple[bool, int]:
    return (job.state != "PENDING", _order(job.number))


def _launcher(status: Mapping[str, Any]) -> int | None:
    """The launcher's process, if it is one of this machine and still that very one."""
    words = str(status.get("launcher") or "").rsplit(" ", 3)
    if len(words) != 4 or words[1] != socket.gethostname():
        return None
    pid, started = int(words[2]), int(words[3])
    return pid if process_state(pid, started) != "X" else None


def _first_rank(path: Path, status: Mapping[str, Any]) -> int | None:
    """Rank 0's process, if it is one of this machine and still that very one."""
    beat = read_heartbeats(RunDir(path).diagnostics).get(0)
    is_it = beat is not None and beat.is_here and beat.origin.pid == status.get("pid") and beat.state() != "X"
    return beat.origin.pid if beat is not None and is_it else None


def _global_batch(config: Path) -> int | None:
    """Of the settings that a run has written."""
    import yaml

    try:
        found = yaml.safe_load(config.read_text(encoding="utf-8"))["data"]["global_batch"]
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return None
    return found if isinstance(found, int) else None


def ranked(sweep: Path) -> list[tuple[Trial, Run]]:
    """The trials of a sweep, the best score first, those without one last.

    Raises:
        ConfigError: its `sweep.json` can't be read.
    """
    trials = sweep_dir.trials(sweep)
    rows = zip(trials, read_all([trial.path for trial in trials]), strict=True)
    return sorted(rows, key=lambda row: -1.0 if row[1].score is None else row[1].score, reverse=True)
