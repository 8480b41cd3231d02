"""Cores that other programs use, and waits for a core, from the kernel's counts."""

import os
import time
from pathlib import Path

import pytest

from dist_train.system import core_load
from dist_train.system.core_load import LoadMeter, WaitMeter, leave_busy_cores

CORES = sorted(os.sched_getaffinity(0))
TICKS = os.sysconf("SC_CLK_TCK")


def write_stat(path: Path, *counts: int, core: int = CORES[0]) -> None:
    """Write ticks of one core: user, nice, system, idle, iowait, irq, softirq, steal."""
    path.write_text(f"cpu  1 1 1 1\ncpu{core} {' '.join(map(str, counts))} 0 0\nintr 5\n")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time now; this process itself uses none of it."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(core_load, "_read_own", lambda: 0.0)
    return now


@pytest.mark.parametrize(
    ("after", "busy"),
    [
        ((10 + TICKS, 0, 0, 0, 0, 0, 0, 0), 0.5),
        ((10, 0, TICKS, 0, 0, TICKS, 0, 0), 1.0),
        ((10, 0, 0, 0, 0, 0, TICKS, TICKS), 1.0),  # steal: another virtual machine
        ((10, 9 * TICKS, 0, 9 * TICKS, 9 * TICKS, 0, 0, 0), 0.0),  # low priority, idle, waiting for a disk
    ],
)
def test_the_cores_of_others_are_counted(
    tmp_path: Path, clock: list[float], after: tuple[int, ...], busy: float
) -> None:
    write_stat(tmp_path / "stat", 10, 0, 0, 0, 0, 0, 0, 0)
    meter = LoadMeter(tmp_path / "stat")
    clock[0] += 2
    write_stat(tmp_path / "stat", *after)
    assert meter.count_busy_cores() == pytest.approx(busy)


def test_own_time_and_that_of_the_other_ranks_does_not_count(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_stat(tmp_path / "stat", 10)
    meter = LoadMeter(tmp_path / "stat")
    clock[0] += 2
    write_stat(tmp_path / "stat", 10 + 2 * TICKS)
    monkeypatch.setattr(core_load, "_read_own", lambda: 0.5)
    assert [meter.count_busy_cores(ranks) for ranks in (1, 2, 4, 8)] == pytest.approx([0.75, 0.5, 0, 0])


@pytest.mark.parametrize("text", [None, "", "garbage\n", "cpu0 one two\n", "cpu99999 500 0 0\n"])
def test_nothing_is_assumed_where_the_kernel_does_not_tell(
    tmp_path: Path, clock: list[float], text: str | None
) -> None:
    if text is not None:
        (tmp_path / "stat").write_text(text)
    meter = LoadMeter(tmp_path / "stat")
    clock[0] += 2
    assert meter.count_busy_cores() == 0


class Busy(LoadMeter):
    def __init__(self, busy: float) -> None:
        self.busy = busy

    def count_busy_cores(self, processes: int = 1) -> float:  # noqa: ARG002
        return self.busy


@pytest.mark.parametrize(
    ("cores", "busy", "left"), [(2, 0.4, None), (2, 0.6, "1"), (2, 2.0, "1"), (8, 3.2, "5"), (1, 1.0, None)]
)
def test_a_new_run_takes_what_is_left(
    monkeypatch: pytest.MonkeyPatch, cores: int, busy: float, left: str | None
) -> None:
    monkeypatch.setenv("DIST_TRAIN_CORES", "")
    monkeypatch.delenv("DIST_TRAIN_CORES")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    said = leave_busy_cores(Busy(busy))
    assert os.environ.get("DIST_TRAIN_CORES") == left
    assert (said is not None and "distributed.threads" in said) is (left is not None)


def test_cores_that_a_scheduler_has_given_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIST_TRAIN_CORES", "2")
    assert leave_busy_cores(Busy(2.0)) is None
    assert os.environ["DIST_TRAIN_CORES"] == "2"


def test_waits_are_counted_over_all_threads(tmp_path: Path) -> None:
    for thread, text in (("1", "1000 200 3"), ("2", "0 0 0"), ("3", "nonsense")):
        (tmp_path / thread).mkdir()
        (tmp_path / thread / "schedstat").write_text(text)
    meter = WaitMeter(tmp_path)
    assert meter.share_waited() == 0
    (tmp_path / "1" / "schedstat").write_text("1300 500 4")
    (tmp_path / "2" / "schedstat").write_text("300 300 4")
    assert meter.share_waited() == 0.5
    assert WaitMeter(tmp_path / "none").share_waited() == 0


def test_this_process_can_be_measured() -> None:
    meter, waits = LoadMeter(), WaitMeter()
    time.sleep(0.35)
    assert 0 <= meter.count_busy_cores() <= len(CORES)
    assert 0 <= waits.share_waited() <= 1
