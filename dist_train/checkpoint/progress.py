"""Find how far a run got from its files, so that a run whose checkpoints are gone does not start over."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dist_train.errors import CheckpointError
from dist_train.monitoring import ledger, metrics
from dist_train.run_dir import RunDir
from dist_train.system.escape import escape

_log = logging.getLogger(__name__)


def check_nothing_is_lost(run: RunDir) -> None:
    """Check, for a run that has no checkpoint, that it had none.

    A run that was killed before its first checkpoint starts at step 0 again, and writes its metrics again.

    Raises:
        CheckpointError: its files say that it got further.
    """
    status = _read_status(run)
    if isinstance(status, dict) and status.get("checkpoint", "unknown") is None:
        return
    descriptions = {run.status.name: _describe_status(status)}
    reached = [_read_steps(status)]
    for path, find_newest_step in ((run.metrics, metrics.find_newest_step), (run.ledger, ledger.find_newest_step)):
        step, descriptions[path.name] = _describe_lines(path, find_newest_step)
        reached.append(step)
    if max(reached) > 0:
        raise CheckpointError(
            f"run.dir {escape(run.path)}: its checkpoints are gone, and it was beyond step 0:\n"
            + "".join(f"  {name} {text}\n" for name, text in descriptions.items())
            + "  checkpoints/ has no checkpoint\n"
            "Nothing was changed. Restore checkpoints/ (is a disk not mounted?), or start at step 0 with "
            "run.resume=never, which moves the old run aside."
        )


def warn_of_lost_checkpoint(run: RunDir, step: int) -> None:
    """Warn that a run resumes from `step`, if its status says that a later checkpoint was saved."""
    status = _read_status(run)
    saved = status.get("checkpoint") if isinstance(status, dict) else None
    if type(saved) is int and saved > step:
        _log.warning(
            "run.dir %s: %s says that the checkpoint of step %d was saved, and the newest that loads is of step %d: "
            "the steps between are trained again", escape(run.path), run.status.name, saved, step,
        )  # fmt: skip


def _read_status(run: RunDir) -> dict[str, Any] | str | None:
    """Return the content of `status.json`, None without one, or why it can't be read."""
    try:
        return run.read_status()
    except OSError as error:
        return error.strerror or str(error)


def _read_steps(status: dict[str, Any] | str | None) -> int:
    steps = [status.get(key) for key in ("step", "checkpoint")] if isinstance(status, dict) else []
    return max((step for step in steps if type(step) is int), default=0)


def _describe_status(status: dict[str, Any] | str | None) -> str:
    if status is None:
        return "is missing, or holds no status"
    if isinstance(status, str):
        return f"can't be read: {status}"
    saved = f", its newest checkpoint of step {status['checkpoint']}" if "checkpoint" in status else ""
    return escape(f"says {status.get('state')} at step {status.get('step')}{saved}")


def _describe_lines(path: Path, find_newest_step: Callable[[Path], int]) -> tuple[int, str]:
    """Return the last step of a file with a line per step, and a description of it."""
    try:
        step = find_newest_step(path)
    except OSError as error:
        return 0, f"can't be read: {error.strerror or error}"
    return step, f"ends at step {step}" if step else "has no lines"
