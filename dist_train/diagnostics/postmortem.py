"""How a run has ended, read from the files in its directory."""

import socket
from pathlib import Path
from typing import Any

from dist_train.diagnostics.heartbeat import read_heartbeats
from dist_train.diagnostics.root_cause import RunEvidence, find_known_failure, find_lost_peer
from dist_train.diagnostics.verdict import Verdict, find_newest_checkpoint, format_resume, read_verdict
from dist_train.errors import ConfigError
from dist_train.run_dir import RunDir, Status
from dist_train.system.escape import escape
from dist_train.system.read_file import check_types, explain

_NEEDED = ("state", "step", "host", "pid", "updated")


def postmortem(run: Path) -> tuple[str, int]:
    """Describe how the newest start of a run has ended; returns a text, and exit code 1 if the run has failed, else 0.

    Raises:
        ConfigError: the directory holds no run.
    """
    status = _read_status(run)
    is_running = _is_running(run, status)
    has_failed = status["state"] == "failed" or (status["state"] == "running" and not is_running)
    verdict = read_verdict(run)
    if verdict is None and has_failed and not is_running:
        if status["state"] == "running" and status["host"] != socket.gethostname():
            text = _format_status(run, status)
            return f"{text} Only that host can tell whether it still runs: give this command there.", 0
        verdict = _find_verdict(RunEvidence.read(run))
    if verdict:
        return verdict.format_screen(run), 1
    if has_failed:
        return _describe_without_verdict(run, status), 1
    next_command = _read_next_command(run) if status["state"] == "preempted" else ""
    return _format_status(run, status) + (f" To resume: {escape(next_command, 2000)}" if next_command else ""), 0


def describe_unreported_end(run: Path) -> str | None:
    """Describe how the newest start was lost, if nothing has reported it yet; None if it ended otherwise.

    A single process that is killed prints no verdict. Call this before the run is claimed.
    """
    try:
        status = RunDir(run).read_status() or {}
    except OSError:
        return None
    if status.get("state") != "dead" or read_verdict(run) is not None:
        return None
    verdict = _find_verdict(RunEvidence.read(run))
    return f"the start before was lost: {verdict.format_line()}" if verdict else None


def _read_status(run: Path) -> dict[str, Any]:
    try:
        status = RunDir(run).read_status()
        check_types(status or {}, Status)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{escape(RunDir(run).status)}: can't be read: {explain(error)}") from None
    if status is None or any(name not in status for name in _NEEDED):
        raise ConfigError(f"{escape(run)}: is not a run: it has no complete status.json; give a directory below runs/")
    return {**status, "state": "running" if status["state"] == "dead" else status["state"]}


def _is_running(run: Path, status: dict[str, Any]) -> bool:
    """Whether rank 0 of the newest start runs on this host."""
    heartbeat = read_heartbeats(run / "diagnostics").get(0)
    if heartbeat is None or not heartbeat.is_on_this_host:
        return False
    return heartbeat.process.pid == status["pid"] and heartbeat.is_alive()


def _find_verdict(evidence: RunEvidence) -> Verdict | None:
    if evidence.first_own_failure or evidence.killed:
        return find_known_failure(evidence)
    return find_lost_peer(evidence) if evidence.failures else None


def _describe_without_verdict(run: Path, status: dict[str, Any]) -> str:
    """Describe a start in which a rank refused, was asked to stop, or left no record."""
    own = RunEvidence.read(run).first_own_failure
    reason = f"{own.kind}: {own.error}" if own else status.get("error", "no rank has left an error message")
    next_command = _read_next_command(run)
    resume = (
        f" To resume: {escape(next_command, 2000)} ({format_resume(find_newest_checkpoint(run))})"
        if next_command
        else ""
    )
    return f"{escape(run.name)}: ended at step {status['step']}; {escape(reason, 2000)}.{resume}"


def _format_status(run: Path, status: dict[str, Any]) -> str:
    return escape(
        f"{run.name}: {status['state']} at step {status['step']} on host {status['host']}, {status['updated']}."
    )


def _read_next_command(run: Path) -> str:
    heartbeats = read_heartbeats(run / "diagnostics").values()
    return next((heartbeat.process.next_command for heartbeat in heartbeats), "")
