"""Metrics of a run, written by rank 0: `metrics.jsonl`, TensorBoard's `tb/`, and the progress bar."""

import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from dist_train.monitoring.tensorboard import encode_scalars, encode_version
from dist_train.settings.schema import Log
from dist_train.system.append_file import AppendFile, read_lines_backward

Line = dict[str, Any]
_NUMBERS = {
    "train": ("step", "epoch", "loss", "lr", "samples_per_second", "time"),
    "eval": ("step", "epoch", "loss", "accuracy", "correct", "count", "time"),
}
_log = logging.getLogger(__name__)


class LossWindow:
    """The loss, samples and time since the last line of metrics; loss and samples are the same on every rank."""

    def __init__(self) -> None:
        self.loss_sum = 0.0
        self.samples = 0
        self._seconds = 0.0
        self._timed_samples = 0
        self._started = time.perf_counter()
        self._all_seconds = 0.0
        self._all_samples = 0

    def add(self, loss_sum: float, count: int) -> None:
        """Add a step: the sum of the losses over the global batch, and its number of samples."""
        self.loss_sum += loss_sum
        self.samples += count
        self._timed_samples += count

    def start_clock(self) -> None:
        self._started = time.perf_counter()

    def stop_clock(self) -> None:
        self._seconds += time.perf_counter() - self._started

    @contextmanager
    def stopped_clock(self) -> Iterator[None]:
        """Stop the clock during a block that does not train, such as an evaluation or a save."""
        self.stop_clock()
        yield
        self.start_clock()

    @property
    def overall(self) -> float | None:
        """Samples per second over all windows read in this process; None before the first."""
        return self._all_samples / self._all_seconds if self._all_seconds else None

    def read(self) -> tuple[float, float]:
        """Return the mean loss per sample and the samples per second; starts the next window."""
        loss = self.loss_sum / self.samples
        self.stop_clock()
        rate = self._timed_samples / self._seconds
        self._all_seconds += self._seconds
        self._all_samples += self._timed_samples
        self.loss_sum = 0.0
        self.samples, self._timed_samples, self._seconds = 0, 0, 0.0
        self.start_clock()
        return loss, rate

    def state_dict(self) -> dict[str, float | int]:
        return {"loss_sum": self.loss_sum, "samples": self.samples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loss_sum, self.samples = state["loss_sum"], state["samples"]


class MetricsFile:
    """Writes `metrics.jsonl`, one JSON object per line, without buffering."""

    def __init__(self, path: Path, lines: list[Line]) -> None:
        """Replace the content of the file by `lines`, and open it for appending."""
        temporary = path.with_name(f".{path.name}")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
        temporary.replace(path)
        self._file = AppendFile(path)

    def write(self, line: Line) -> None:
        self._file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        self._file.close()


def read_lines(path: Path) -> list[Line]:
    """Return the lines of a `metrics.jsonl`, without damaged ones; a warning counts those."""
    texts = path.read_text(errors="replace").splitlines() if path.exists() else []
    lines = [line for text in texts if (line := _parse_line(text)) is not None]
    if len(lines) < len(texts) - 1:
        _log.warning("%s: %d damaged lines are left out", path, len(texts) - len(lines))
    return lines


def newest_lines(path: Path, kind: Literal["train", "eval"]) -> Iterator[Line]:
    """Yield the lines of a kind, newest first; the file is read from its end and only as far as needed."""
    if path.exists():
        mark = f'"kind": "{kind}"'.encode()
        found = (_parse_line(text.decode(errors="replace")) for text in read_lines_backward(path) if mark in text)
        yield from (line for line in found if line is not None and line["kind"] == kind)


def find_test_line(lines: list[Line], step: int) -> Line | None:
    """Return the line of the test evaluation after `step`, None where there is none."""
    found = [line for line in lines if line["kind"] == "eval" and line["split"] == "test" and line["step"] == step]
    return found[-1] if found else None


def _parse_line(text: str) -> Line | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    if not isinstance(line, dict) or line.get("kind") not in _NUMBERS:
        return None
    is_complete = all(type(line.get(name)) in (int, float) for name in _NUMBERS[line["kind"]])
    return line if is_complete and (line["kind"] == "train" or isinstance(line.get("split"), str)) else None


class Curves:
    """Writes TensorBoard's event files; each start rewrites them from `metrics.jsonl`.

    So `metrics.jsonl` is the only source, and curves do not overlap after a resume.
    """

    def __init__(self, directory: Path, lines: list[Line]) -> None:
        directory.mkdir(exist_ok=True)
        for stale in directory.glob("events.out.tfevents.*"):
            stale.unlink()
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.0"
        self._file = AppendFile(directory / name)
        self._file.write(encode_version(time.time()))
        for line in lines:
            self.write(line)

    def write(self, line: Line) -> None:
        names = ("loss", "lr", "samples_per_second") if line["kind"] == "train" else ("loss", "accuracy")
        prefix = "train" if line["kind"] == "train" else line["split"]
        scalars = {f"{prefix}/{name}": line[name] for name in names}
        self._file.write(encode_scalars(line["time"], line["step"], scalars))

    def close(self) -> None:
        self._file.close()


def lines_to_keep(lines: list[Line], step: int, is_evaluated: bool) -> list[Line]:
    """Return the lines that a run that resumes from `step` does not write again.

    Args:
        is_evaluated: whether the evaluation after `step` is complete.
    """
    return [
        line
        for line in lines
        if line["step"] < step or (line["step"] == step and (is_evaluated or line["kind"] == "train"))
    ]


class Metrics:
    """Writes each line of metrics to the file, the curves, and the end of the progress bar."""

    def __init__(self, path: Path, curves: Path, config: Log, step: int, total_steps: int, evaluated_step: int) -> None:
        lines = read_lines(path)
        is_evaluated = evaluated_step == step or (step == total_steps and find_test_line(lines, step) is not None)
        self.earlier = lines_to_keep(lines, step, is_evaluated)
        self._file = MetricsFile(path, self.earlier)
        self._curves = Curves(curves, self.earlier) if config.tensorboard else None
        self._bar = _make_bar(config.progress, step, total_steps)

    def step(self, count: int) -> None:
        """Advance the progress bar by some steps."""
        self._bar.update(count)

    def write(self, kind: Literal["train", "eval"], **values: Any) -> None:
        line = {"kind": kind, **values, "time": time.time()}
        self._file.write(line)
        if self._curves:
            self._curves.write(line)
        if kind == "train":
            self._bar.set_postfix(loss=f"{values['loss']:.4f}", refresh=False)

    def close(self) -> None:
        self._bar.close()
        self._file.close()
        if self._curves:
            self._curves.close()


def shows_progress_bar(progress: Literal["auto", "on", "off"]) -> bool:
    """Whether the terminal shows a progress bar; without it, the run prints lines."""
    return progress == "on" or (progress == "auto" and sys.stderr.isatty())


def _make_bar(progress: Literal["auto", "on", "off"], step: int, total_steps: int) -> "tqdm[Any]":
    tqdm.monitor_interval = 0  # no monitor thread
    return tqdm(
        total=total_steps,
        initial=step,
        unit="step",
        disable=not shows_progress_bar(progress),
        dynamic_ncols=True,
        leave=False,
    )
