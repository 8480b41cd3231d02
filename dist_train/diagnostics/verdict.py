"""The verdict on a failed attempt: which rank failed first, and why, in `diagnostics/verdict.json` and as a screen."""

import json
import os
import re
import socket
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dist_train.diagnostics.failure import Cause
from dist_train.system.escape import escape
from dist_train.system.read_file import find_files, is_file, may_exist, parse_record, read_bytes

_MAX_FRAME_LINES = 12
_MAX_LENGTH = 2000  # characters of a row of the screen
_STEP = re.compile(r"step_\d{8,18}")
_BETWEEN_STEPS = ("start", "evaluate", "save", "end")


@dataclass(frozen=True)
class Verdict:
    """The rank that failed first, and what is known about it; the keys of `verdict.json`."""

    rank: int | None
    """None where it is only known to be on another host."""
    world_size: int
    host: str | None
    pid: int | None
    phase: str | None
    step: int | None
    """Number of finished steps."""
    cause: Cause
    error: str
    victims: list[int]
    """Ranks that failed only because they lost the first one."""
    next_command: str
    attempt: int
    time: str
    """UTC."""
    traceback: str = ""
    checkpoint: int | None = None
    """Step of the newest checkpoint, None where there is none."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def format_screen(self, run: Path) -> str:
        """Return the screen that is printed when the run in the directory `run` has failed."""
        rows = [
            ("first failed", self._format_rank()),
            ("where", self._format_step()),
            ("cause", f"{self.cause}: {self.error}"),
            *(("", line) for line in self._select_frames()),
            ("victims", ", ".join(f"rank {rank}({self.world_size})" for rank in self.victims)),
            ("diagnostics", str(_path(run)) if may_exist(_path(run)) else ""),
            ("next", f"{self.next_command}   ({format_resume(self.checkpoint)})" if self.next_command else ""),
        ]
        lines = [f"{name:<14} {escape(text, _MAX_LENGTH)}".rstrip() for name, text in rows if text]
        return "\n".join([f"---- {escape(run.name)}: the run failed ----", *lines])

    def format_line(self) -> str:
        """Return who failed, where and why in one line."""
        where = self._format_step()
        return escape(
            f"{self._format_rank()}{', in ' + where if where else ''}: {self.cause}: {self.error}", _MAX_LENGTH
        )

    def _format_rank(self) -> str:
        if self.rank is None:
            return "a rank on another host"
        process = f"on host {self.host}, pid {self.pid}" if self.host else "on another host"
        return f"rank {self.rank}({self.world_size}) {process}"

    def _format_step(self) -> str:
        """Number steps as the ledger and the metrics do: the step in progress is one more than the finished ones."""
        if self.phase is None or self.step is None:
            return ""
        is_between_steps = self.phase in _BETWEEN_STEPS
        return f"{self.phase} after step {self.step}" if is_between_steps else f"{self.phase} of step {self.step + 1}"

    def _select_frames(self) -> list[str]:
        """The innermost lines of the traceback, for causes whose error alone does not say enough."""
        if self.cause not in ("exception", "killed", "stalled"):
            return []
        _, header, text = self.traceback.rpartition("Traceback (most recent call last):\n")
        lines = [line for line in text.splitlines() if line.startswith("  ") and line.strip(" ^~")]
        # The stacks of faulthandler, without this header, have the most recent call first.
        return lines[-_MAX_FRAME_LINES:] if header else lines[:_MAX_FRAME_LINES]


def publish_verdict(run: Path, verdict: Verdict) -> bool:
    """Write and print a verdict, unless its attempt has one already; returns whether it was printed.

    Several ranks may reach a verdict at the same time; the first one counts, so that one screen is printed. If the
    disk can't be written, the verdict is printed all the same.
    """
    directory, text = run / "diagnostics", json.dumps(verdict.to_dict(), indent=2) + "\n"
    temporary = directory / f".verdict.{socket.gethostname()}.{os.getpid()}"
    try:
        temporary.write_text(text, encoding="utf-8")
        os.link(temporary, directory / f"verdict_{verdict.attempt}.json")  # fails if another rank was first
        temporary.replace(_path(run))
    except FileExistsError:
        temporary.unlink()
        return False
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    print(verdict.format_screen(run), file=sys.stderr, flush=True)
    return True


def read_verdict(run: Path) -> Verdict | None:
    """Return the newest verdict on a run; None where there is none or it is damaged."""
    try:
        return parse_record(Verdict, read_bytes(_path(run)))
    except (OSError, ValueError):
        return None


def find_newest_checkpoint(run: Path) -> int | None:
    """Return the step of the newest complete checkpoint; None where there is none."""
    paths = [path for path in find_files(run / "checkpoints") if _STEP.fullmatch(path.name)]
    steps = [int(path.name.removeprefix("step_")) for path in paths if is_file(path / "manifest.json")]
    return max(steps, default=None)


def format_resume(checkpoint: int | None) -> str:
    """Say where the next command starts."""
    return "starts at step 0" if checkpoint is None else f"resumes from step {checkpoint}"


def _path(run: Path) -> Path:
    return run / "diagnostics" / "verdict.json"
