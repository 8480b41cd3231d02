"""Format runs for the terminal: one run in several lines, several runs as a table."""

from collections.abc import Sequence
from datetime import timedelta

from dist_train.eval_line import format_number, list_numbers
from dist_train.system.escape import escape
from launch.runs.progress import Line
from launch.runs.snapshot import RunSnapshot
from launch.slurm.client import Job
from launch.sweeps.sweep_dir import Trial

MAX_PATH, MAX_LINE = 4096, 8192  # characters of a path and of a line that are shown


def format_run(run: RunSnapshot) -> str:
    """Format a run in several lines: state, evaluation, job, restarts, process, next command."""
    rows = [
        ("", f"{escape(run.path, MAX_PATH)}: {summarize_run(run)}"),
        ("evaluated", _format_evaluation(run)),
        ("job", _format_job_row(run)),
        ("restarts", _format_restarts(run)),
        ("process", _format_process(run)),
        ("unreadable", format_unreadable(run)),
        ("next", _suggest_next(run)),
    ]
    lines = [f"  {name:<11}{text}" if name else text for name, text in rows if text]
    return "\n".join(escape(line, MAX_LINE) for line in lines)


def summarize_run(run: RunSnapshot) -> str:
    """Format a run in one line: `running at step 1,200 of 7,800 (13,000 samples/s, ETA 0:12:30)`."""
    return escape(_summarize(run), MAX_LINE)


def _summarize(run: RunSnapshot) -> str:
    if run.state == "queued" and run.job:
        start = f", expected to start {run.job.start}" if run.job.start not in ("", "N/A") else ""
        return f"queued ({run.job.reason}{start}), at step {_format_steps(run)}"
    if run.state in ("starting", "ending"):
        return f"{run.state}, at step {_format_steps(run)}"
    if run.state == "running":
        return f"running at step {_format_steps(run)} ({_format_speed(run)})".removesuffix(" ()")
    if run.state == "done":
        test = run.last_eval_line
        return f"done at step {_format_steps(run)}" + (f" ({_format_number(run, test)})" if test else "")
    return f"{run.state} at step {_format_steps(run)}{_explain_end(run)}"


def format_runs(runs: Sequence[RunSnapshot]) -> str:
    """Format runs as a table, one per line."""
    head = ("RUN", "STATE", "STEP", "SAMPLES/S", "ETA", "SCORE", "JOB", "UPDATED", "NOTE")
    return format_table(
        head,
        [
            (
                str(run.path),
                run.state,
                _format_steps(run),
                f"{run.rate:,.0f}" if run.rate is not None and run.state == "running" and not run.idle else "",
                _format_duration(run.seconds_left),
                format_score(run),
                run.job.id if run.job else str(run.status.get("job_id") or ""),
                run.updated.astimezone().strftime("%Y-%m-%d %H:%M:%S") if run.updated else "",
                _format_note(run),
            )
            for run in runs
        ],
    )


def format_trials(trials: Sequence[tuple[Trial, RunSnapshot]]) -> str:
    """Format the trials of a sweep as a table, one per line."""
    head = ("TRIAL", "SETTINGS", "STATE", "STEP", "SCORE", "RUN")
    return format_table(
        head,
        [
            (
                str(trial.number),
                " ".join(trial.overrides),
                run.state,
                _format_steps(run) if run.state != "not begun" else "",
                format_score(run),
                str(run.path),
            )
            for trial, run in trials
        ],
    )


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format rows as aligned columns; columns that are empty in all rows are left out."""
    used = [number for number in range(len(head)) if any(row[number] for row in rows)]
    lines = [[escape(row[number], MAX_PATH) for number in used] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def format_job(job: Job) -> str:
    """Format the state of a job: `RUNNING on n1, 0:55:00 left`."""
    reason = f" ({job.reason})" if job.reason not in ("", "None") else ""
    where = f" on {job.nodes}" if job.nodes else ""
    return f"{job.state}{reason}{where}" + ("" if job.is_over else f", {job.time_left} left")


def _format_steps(run: RunSnapshot) -> str:
    return f"{run.step:,}" + (f" of {run.total_steps:,}" if run.total_steps else "")


def format_unreadable(run: RunSnapshot) -> str:
    """Format which files of a run can't be read: `metrics.jsonl: Is a directory`."""
    return ", ".join(
        f"{name}: {why}" if name != "." else f"can't be read: {why}" for name, why in run.unreadable.items()
    )


def _format_note(run: RunSnapshot) -> str:
    return "; ".join(text for text in (_format_idle(run), format_unreadable(run)) if text)


def _format_speed(run: RunSnapshot) -> str:
    if run.idle:
        return _format_idle(run)
    left = f", ETA {_format_duration(run.seconds_left)}" if run.seconds_left is not None else ""
    return f"{run.rate:,.0f} samples/s{left}" if run.rate is not None else ""


def _format_idle(run: RunSnapshot) -> str:
    if run.idle is None:
        return ""
    seconds, phase = run.idle
    return f"no progress for {_format_duration(seconds)}" + (f", in {phase}" if phase else "")


def _format_duration(seconds: float | None) -> str:
    return "" if seconds is None else str(timedelta(seconds=round(seconds)))


def _explain_end(run: RunSnapshot) -> str:
    """Explain in one line why a run ended, as far as that is known."""
    if verdict := run.verdict:
        first = "a rank on another host" if verdict.rank is None else f"rank {verdict.rank}({verdict.world_size})"
        return f": {first}, {verdict.cause}: {verdict.error}"
    if run.state == "failed" and run.status.get("error"):
        return f": {run.status['error'].splitlines()[0]}"
    if run.state == "dead":
        return ": ended without writing its status, for example killed by SIGKILL"
    if run.status_fault:
        return f": its status.json can't be read: {run.status_fault}"
    if run.state == "unknown" and not run.status:
        return ": it has a job, and Slurm is not available here"
    return ", resumable" if run.status.get("resumable") else ""


def _format_evaluation(run: RunSnapshot) -> str:
    line = run.last_eval_line
    if line is None or run.state == "done":
        return ""
    return f"{_format_number(run, line)} after step {line['step']:,}"


def _format_number(run: RunSnapshot, line: Line) -> str:
    """`test accuracy 97.25 %`: the number by which the run is judged, of an evaluation."""
    name = run.monitor.name
    return f"{line['split']} {name} {format_number(name, list_numbers(line).get(name))}"


def format_score(run: RunSnapshot) -> str:
    """Format the best value of the number by which the run is judged."""
    return "" if run.score is None else format_number(run.monitor.name, run.score)


def _format_job_row(run: RunSnapshot) -> str:
    if run.job is not None:
        return f"{run.job.id}, {format_job(run.job)}"
    return str(run.status.get("job_id") or "") if run.is_of_job else ""


def _format_restarts(run: RunSnapshot) -> str:
    counts = ((run.restarts_in_place, "in place"), (run.job_restarts, "of the job"))
    return ", ".join(f"{count} {what}" for count, what in counts if count)


def _format_process(run: RunSnapshot) -> str:
    status = run.status
    if not status:
        return ""
    return f"{status.get('pid')} on host {status.get('host')}, start {status.get('attempt')}, {status.get('updated')}"


def _suggest_next(run: RunSnapshot) -> str:
    if run.is_active:
        return f"dist-train logs {run.path} -f"
    if run.state in ("failed", "dead") and run.status:
        return f"dist-train postmortem {run.path}"
    if run.state in ("failed", "unknown"):
        return f"dist-train logs {run.path}"
    return run.resume_command or ""
