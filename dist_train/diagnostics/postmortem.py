"""How a run has ended, told from what lies in its directory."""

import socket
from pathlib import Path
from typing import Any

from dist_train.diagnostics.heartbeat import read_heartbeats
from dist_train.diagnostics.root_cause import (
    RunEvidence,
    Verdict,
    first_failure,
    judge_lost,
    newest_checkpoint,
    read_verdict,
)
from dist_train.errors import ConfigError
from dist_train.run_dir import RunDir


def postmortem(run: Path) -> tuple[str, int]:
    """What there is to say of a run's newest start, and an exit code: 0 as long as nothing has failed, else 1.

    Raises:
        ConfigError: there is no run.
    """
    status = _status(run)
    verdict = read_verdict(run)
    if verdict is None and status["state"] in ("running", "failed") and not _is_alive(run, status):
        if _is_elsewhere(status):
            return f"{_told(run, status)} Whether it still runs can be seen there only: give this command there.", 0
        verdict = _judged(RunEvidence.of(run))
    if verdict:
        return verdict.screen(run), 1
    if status["state"] == "failed" or (status["state"] == "running" and not _is_alive(run, status)):
        return _without_verdict(run, status), 1
    go_on = _command(run) if status["state"] == "preempted" else ""
    return _told(run, status) + (f" Go on: {go_on}" if go_on else ""), 0


def _status(run: Path) -> dict[str, Any]:
    status = RunDir(run).read_status()
    needed = {"state": str, "step": int, "host": str, "pid": int, "updated": str}
    if status is None or any(not isinstance(status.get(name), kind) for name, kind in needed.items()):
        raise ConfigError(f"{run}: is no run: it has no whole status.json; give a directory below runs/")
    return {**status, "state": "running" if status["state"] == "dead" else status["state"]}


def _is_elsewhere(status: dict[str, Any]) -> bool:
    return bool(status["host"] != socket.gethostname()) and status["state"] == "running"


def _is_alive(run: Path, status: dict[str, Any]) -> bool:
    """Whether rank 0 of the newest start is a process of this machine now."""
    beat = read_heartbeats(run / "diagnostics").get(0)
    return beat is not None and beat.is_here and beat.origin.pid == status["pid"] and beat.state() != "X"


def _judged(scene: RunEvidence) -> Verdict | None:
    if scene.first_own or scene.dead:
        return first_failure(scene)
    return judge_lost(scene) if scene.failures else None


def _without_verdict(run: Path, status: dict[str, Any]) -> str:
    """A start that left no verdict because a rank refused with a message, was told to end, or left nothing at all."""
    own = RunEvidence.of(run).first_own
    checkpoint = newest_checkpoint(run)
    start = "starts at step 0" if checkpoint is None else f"goes on from step {checkpoint}"
    why = f"{own.kind}: {own.error}" if own else status.get("error", "no rank has left a word")
    go_on = _command(run)
    return f"{run.name}: ended at step {status['step']}; {why}." + (f" Go on: {go_on} ({start})" if go_on else "")


def _told(run: Path, status: dict[str, Any]) -> str:
    return f"{run.name}: {status['state']} at step {status['step']} on host {status['host']}, {status['updated']}."


def _command(run: Path) -> str:
    beats = read_heartbeats(run / "diagnostics").values()
    return next((beat.origin.next_command for beat in beats), "")
