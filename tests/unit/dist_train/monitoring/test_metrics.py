"""Metrics: the window of losses, metrics.jsonl, TensorBoard's curves, and the progress bar."""

import fcntl
import io
import json
import pty
import struct
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dist_train.monitoring import metrics as metrics_module
from dist_train.monitoring.metrics import (
    LossWindow,
    Metrics,
    newest_lines,
    read_lines,
    shows_progress_bar,
)
from dist_train.settings.schema import Log
from dist_train.system import append_file
from dist_train.system.read_file import open_regular


class Clock:
    """A `time.perf_counter` that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


EVALUATED = {"split": "test", "accuracy": 0.5, "correct": 1, "count": 2}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("dist_train.monitoring.metrics.time.perf_counter", clock)
    return clock


def line(step: int, kind: str = "train") -> dict[str, Any]:
    values = {"lr": 0.1, "samples_per_second": 10.0} if kind == "train" else EVALUATED
    return {"kind": kind, "step": step, "epoch": 0, "loss": 1.0 / step, **values, "time": 1000.0 + step}


def test_a_window_has_the_mean_loss_per_sample_and_is_reset_by_a_read(clock: Clock) -> None:
    window = LossWindow()
    window.add(6.0, 4)
    window.add(3.0, 2)
    clock.now += 2
    assert window.read() == (1.5, 3.0)
    window.add(1.0, 10)
    clock.now += 1
    assert window.read() == (0.1, 10.0)
    assert window.overall == 16 / 3


def test_evaluations_and_saves_do_not_count_as_time_of_a_window(clock: Clock) -> None:
    window = LossWindow()
    assert window.overall is None
    clock.now += 50  # before the first step
    window.start_clock()
    window.add(1.0, 8)
    clock.now += 2
    with window.stopped_clock():
        clock.now += 1000
    clock.now += 2
    assert window.read()[1] == 2.0


def test_a_saved_window_continues_with_the_same_bits() -> None:
    losses = (torch.rand(20, generator=torch.Generator().manual_seed(0)) / 3).tolist()
    undisturbed, saved, resumed = (LossWindow() for _ in range(3))
    for loss in losses[:7]:
        undisturbed.add(loss, 3)
        saved.add(loss, 3)
    state = json.loads(json.dumps(saved.state_dict()))
    resumed.load_state_dict(state)
    for loss in losses[7:]:
        for window in (undisturbed, saved, resumed):
            window.add(loss, 3)
    expected = undisturbed.read()[0]
    assert saved.read()[0] == resumed.read()[0] == expected
    assert expected == pytest.approx(sum(losses) / 60, rel=1e-12)


def test_samples_from_before_a_resume_are_not_in_its_rate(clock: Clock) -> None:
    window = LossWindow()
    window.load_state_dict({"loss_sum": 5.0, "samples": 10})
    window.add(1.0, 2)
    clock.now += 1
    assert window.read() == (0.5, 2.0)


def resume(directory: Path, step: int, total_steps: int = 100, evaluated_step: int = 0) -> Metrics:
    log = Log(progress="off")
    return Metrics(directory / "metrics.jsonl", directory / "tb", log, step, total_steps, evaluated_step)


def write_lines(path: Path, lines: list[dict[str, Any]], rest: str = "") -> None:
    path.write_text("".join(json.dumps(one) + "\n" for one in lines) + rest)


def test_lines_are_written_at_once(tmp_path: Path) -> None:
    metrics = resume(tmp_path, 0)
    metrics.write("train", **{key: value for key, value in line(1).items() if key not in ("kind", "time")})
    assert [one["step"] for one in read_lines(tmp_path / "metrics.jsonl")] == [1]
    metrics.close()


@pytest.mark.parametrize("rest", ["", json.dumps(line(4))[:-9], "\n\nnoise\n", "[" * 5000])
@pytest.mark.parametrize(("is_evaluated", "kept"), [(False, 2), (True, 3)])
def test_a_resume_removes_later_and_incomplete_lines(tmp_path: Path, rest: str, is_evaluated: bool, kept: int) -> None:
    path = tmp_path / "metrics.jsonl"
    written = [line(1), line(2), line(2, "eval"), line(3), line(3, "eval")]
    write_lines(path, written, rest)
    assert read_lines(path) == written
    metrics = resume(tmp_path, 2, evaluated_step=2 if is_evaluated else 1)
    assert [json.loads(text) for text in path.read_text().splitlines()] == written[:kept]
    assert (metrics.earlier, metrics.newest_step, metrics.damaged) == (written[1:kept], 2, 0)
    metrics.close()


def test_damaged_lines_before_a_resume_are_counted_and_stay(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_lines(path, [line(1), {**line(2), "loss": None}, line(3), line(4)])
    metrics = resume(tmp_path, 3)
    assert (metrics.damaged, metrics.newest_step) == (1, 3)
    assert len(path.read_text().splitlines()) == 3
    metrics.close()


DAMAGED = [
    '{"step": 3, "loss": null}',
    '{"step": 3, "loss": "x',
    '{"step": 0}',
    '{"step": {"a": 1}}',
    "[" * 5000,
    "noise",
]


@pytest.mark.parametrize("damaged", DAMAGED)
def test_a_resume_removes_no_damaged_line_of_its_own_step(tmp_path: Path, damaged: str) -> None:
    path = tmp_path / "metrics.jsonl"
    write_lines(path, [line(1), line(2)], damaged + "\n")
    before = path.read_text()
    metrics = resume(tmp_path, 3)
    assert (metrics.damaged, path.read_text()) == (1, before)
    metrics.close()


@pytest.mark.parametrize("damaged", DAMAGED[1:])
def test_a_damaged_line_after_a_removed_one_is_removed(tmp_path: Path, damaged: str) -> None:
    path = tmp_path / "metrics.jsonl"
    write_lines(path, [line(1), line(2), line(4)], damaged + "\n")
    metrics = resume(tmp_path, 3)
    assert (metrics.damaged, read_lines(path)) == (0, [line(1), line(2)])
    metrics.close()


def test_a_start_at_zero_removes_all_lines(tmp_path: Path) -> None:
    write_lines(tmp_path / "metrics.jsonl", [line(1)], "noise")
    resume(tmp_path, 0).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


def test_a_line_that_has_lost_only_its_newline_stays(tmp_path: Path) -> None:
    write_lines(tmp_path / "metrics.jsonl", [line(1)], json.dumps(line(2)))
    resume(tmp_path, 2).close()
    assert read_lines(tmp_path / "metrics.jsonl") == [line(1), line(2)]
    assert (tmp_path / "metrics.jsonl").read_text().endswith("\n")


def test_a_resume_reads_only_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes are counted, not seconds: as many at ten times as many lines."""
    read = []
    real = open_regular

    def counted(path: Path) -> io.BufferedReader:
        class Counted(io.FileIO):
            def readinto(self, buffer: Any) -> int | None:
                read.append(super().readinto(buffer) or 0)
                return read[-1]

        real(path).close()
        return io.BufferedReader(Counted(str(path)))

    monkeypatch.setattr(append_file, "open_regular", counted)
    monkeypatch.setattr(metrics_module, "open_regular", counted)
    for count in (1_000, 10_000):
        directory = tmp_path / str(count)
        directory.mkdir()
        write_lines(directory / "metrics.jsonl", [line(step) for step in range(1, count + 1)])
        resume(directory, count - 1).close()  # writes the curves, which were not there
        write_lines(directory / "metrics.jsonl", [line(step) for step in range(1, count + 1)])
        read.clear()
        metrics = resume(directory, count - 10)
        assert metrics.newest_step == count - 10
        assert sum(read) < 5 * 2**16
        metrics.close()


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(directory))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_metrics_go_to_the_file_and_to_the_curves(tmp_path: Path) -> None:
    path, curves = tmp_path / "metrics.jsonl", tmp_path / "tb"
    for step in (0, 1):
        written = Metrics(path, curves, Log(progress="off"), step, total_steps=2, evaluated_step=step)
        written.step(1)
        written.write("train", step=step + 1, epoch=0, loss=0.5, lr=0.1, samples_per_second=1.0)
        written.close()
    assert [one["step"] for one in read_lines(path)] == [1, 2]
    assert scalars(curves)["train/loss"] == [(1, 0.5), (2, 0.5)]


def test_without_tensorboard_there_are_no_curves(tmp_path: Path) -> None:
    Metrics(tmp_path / "metrics.jsonl", tmp_path / "tb", Log(tensorboard=False, progress="off"), 0, 2, 0).close()
    assert not (tmp_path / "tb").exists()


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("progress", "terminal", "expected"),
    [("auto", True, True), ("auto", False, False), ("on", False, True), ("off", True, False)],
)
def test_a_bar_is_shown_only_where_it_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, progress: Any, terminal: bool, expected: bool
) -> None:
    stream = _Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(metrics_module, "_has_width", lambda: True)
    assert shows_progress_bar(progress) == expected
    written = Metrics(tmp_path / "metrics.jsonl", tmp_path, Log(tensorboard=False, progress=progress), 3, 10, 0)
    written.step(1)
    written.close()
    assert ("3/10" in stream.getvalue()) == expected
    assert expected or stream.getvalue() == ""


@pytest.mark.parametrize(("columns", "expected"), [(0, False), (1, True), (80, True)])
def test_no_bar_is_shown_on_a_terminal_without_width(
    monkeypatch: pytest.MonkeyPatch, columns: int, expected: bool
) -> None:
    """As under `script` and in some containers."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with open(terminal, "w") as stream, open(controller, "rb"):  # noqa: PTH123 (descriptors)
        monkeypatch.setattr(sys, "stderr", stream)
        assert shows_progress_bar("auto") == expected
        monkeypatch.undo()


@pytest.mark.parametrize(
    "damage",
    [
        "5",
        "garbage",
        '{"kind": "train", "step": "5", "time": 1}',
        '{"kind": "eval", "step": 2, "time": 1}',
        "[]",
        "\\udcff",
    ],
)
def test_a_damaged_line_costs_no_other(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "metrics.jsonl"
    good = [line(1), line(2, "eval")]
    path.write_text("\n".join([damage, json.dumps(good[0]), damage, json.dumps(good[1])]) + "\n")
    assert read_lines(path) == good


def test_the_newest_lines_of_a_kind_come_first(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert list(newest_lines(path, "train")) == []
    write_lines(path, [line(1), line(1, "eval"), line(2), line(2, "eval"), line(3)])
    path.write_text(path.read_text() + '{"kind": "train", "step": 4')  # a kill has cut it short
    assert [one["step"] for one in newest_lines(path, "train")] == [3, 2, 1]
    assert [one["step"] for one in newest_lines(path, "eval")] == [2, 1]
