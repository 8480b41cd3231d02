"""Metrics of a run, written by rank 0: `metrics.jsonl`, TensorBoard's `tb/`, and the progress bar."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from dist_train.monitoring.event_files import EventFiles
from dist_train.settings.schema import Log
from dist_train.system.append_file import AppendFile, count_damaged, cut_lines, read_lines_backward, read_step
from dist_train.system.read_file import may_exist, open_regular, parse_object

Line = dict[str, Any]
_NUMBERS = {
    "train": ("step", "epoch", "loss", "lr", "samples_per_second", "time"),
    "eval": ("step", "epoch", "count", "time"),
}


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


def read_lines(path: Path) -> list[Line]:
    """Return the lines of a `metrics.jsonl`, without damaged ones."""
    return list(stream_lines(path)) if may_exist(path) else []


def stream_lines(path: Path) -> Iterator[Line]:
    """Yield the lines, oldest first, without damaged ones; raises OSError."""
    with open_regular(path) as file:
        yield from filter(None, map(_parse_line, file))


def find_newest_step(path: Path) -> int:
    """Return the step of the last line, 0 without one; raises OSError."""
    try:
        return next((line["step"] for text in read_lines_backward(path) if (line := _parse_line(text))), 0)
    except FileNotFoundError:
        return 0


def _lines_at(path: Path, step: int) -> list[Line]:
    """Return the lines of a step, oldest first; reads from the end only to the step before."""
    newest = filter(None, map(_parse_line, read_lines_backward(path)))
    later = takewhile(lambda line: line["step"] >= step, newest)
    return [line for line in later if line["step"] == step][::-1]


def newest_lines(path: Path, kind: Literal["train", "eval"]) -> Iterator[Line]:
    """Yield the lines of a kind, newest first; the file is read from its end and only as far as needed."""
    if may_exist(path):
        mark = f'"kind": "{kind}"'.encode()
        found = (_parse_line(text) for text in read_lines_backward(path) if mark in text)
        yield from (line for line in found if line is not None and line["kind"] == kind)


def find_test_line(lines: list[Line], step: int, split: str = "test") -> Line | None:
    """Return the line of the evaluation of `split` after `step`, None where there is none."""
    found = [line for line in lines if line["kind"] == "eval" and line["split"] == split and line["step"] == step]
    return found[-1] if found else None


def _parse_line(text: bytes) -> Line | None:
    try:
        line = parse_object(text)
    except ValueError:
        return None
    if line.get("kind") not in tuple(_NUMBERS):
        return None
    is_complete = all(type(line.get(name)) in (int, float) for name in _NUMBERS[line["kind"]])
    is_complete = is_complete and type(line["step"]) is int and line["step"] >= 0
    is_whole = line["kind"] == "train" or (isinstance(line.get("split"), str) and "loss" in line)
    return line if is_complete and is_whole else None


class Metrics:
    """Writes each line of metrics to the file, the curves, and the end of the progress bar."""

    def __init__(
        self,
        path: Path,
        curves: Path,
        config: Log,
        step: int,
        total_steps: int,
        evaluated_step: int,
        last_split: str = "test",
    ) -> None:
        """Open for appending; lines that the run writes again are removed. Raises OSError.

        Args:
            last_split: what is evaluated last at the end of the run.
        """
        self._file = AppendFile(path)
        lines = _lines_at(path, step) if step else []
        is_evaluated = evaluated_step == step or (
            step == total_steps and find_test_line(lines, step, last_split) is not None
        )
        self.earlier = [line for line in lines if is_evaluated or line["kind"] == "train"]
        """The lines of this step that an earlier start has written, and that stay."""

        def is_kept(text: bytes) -> bool | None:
            named, line = read_step(text), _parse_line(text)
            if named is None:
                return None
            return named < step or (named == step and (line is None or line in self.earlier))

        cut_lines(path, is_kept if step else None)
        self.newest_step = find_newest_step(path)
        """The step of the last line that was kept."""
        self.damaged = count_damaged(path, _parse_line)
        """Damaged lines near the end, which stay."""
        self.events = EventFiles(curves, step, self.earlier, stream_lines(path)) if config.tensorboard else None
        self._bar = _make_bar(config.progress, step, total_steps)

    @property
    def missing(self) -> str | None:
        """What could not be written, and why; None if the file has everything."""
        return self._file.missing

    def step(self, count: int) -> None:
        """Advance the progress bar by some steps."""
        self._bar.update(count)

    def write(self, kind: Literal["train", "eval"], **values: Any) -> None:
        line = {"kind": kind, **values, "time": time.time()}
        self._file.write(json.dumps(line) + "\n")
        if self.events:
            self.events.write(line)
        if kind == "train":
            self._bar.set_postfix(loss=f"{values['loss']:.4f}", refresh=False)

    def close(self) -> None:
        self._bar.close()
        self._file.close()
        if self.events:
            self.events.close()


def shows_progress_bar(progress: Literal["auto", "on", "off"]) -> bool:
    """Whether the terminal shows a progress bar; without it, the run prints lines."""
    return progress == "on" or (progress == "auto" and sys.stderr.isatty() and _has_width())


def _has_width() -> bool:
    """Whether the terminal knows its width; `script` and some containers say 0, where no bar can be drawn."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError):
        return False


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
