"""How many cores a process may use: its affinity, the quota of its container, and a variable."""

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from dist_train.system import cpu
from dist_train.system.cpu import LoadMeter, WaitMeter, count_cores, leave_busy_cores, read_cpu_quota

CORES = len(os.sched_getaffinity(0))


@pytest.fixture(autouse=True)
def no_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DIST_TRAIN_CORES", raising=False)
    monkeypatch.setattr(cpu, "OWN_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cpu, "CGROUPS", tmp_path)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("1", 1), ("", CORES), ("0", CORES), ("000", CORES), ("-1", CORES), ("many", CORES), ("9" * 5000, CORES)],
)
def test_a_variable_lowers_the_number(monkeypatch: pytest.MonkeyPatch, limit: str, expected: int) -> None:
    monkeypatch.setenv("DIST_TRAIN_CORES", limit)
    assert count_cores() == expected


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 0.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {"cpu.max": "garbage"}, None),
        ("0::/\n", {"cpu.max": ""}, None),
        ("0::/\n", {}, None),
        ("0::/a/b\n", {"a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000"}, 1.5),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "200000 100000"}, 2),
        ("0::/../..\n", {"cpu.max": "100000 50000"}, 2),
        ("0::/docker/123\n", {"cpu.max": "25000 100000"}, 0.25),  # mounted as the root of the container
        (
            "4:cpu,cpuacct:/\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "50000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            0.5,
        ),
        ("4:cpu:/x\n", {"cpu/x/cpu.cfs_quota_us": "250000", "cpu/x/cpu.cfs_period_us": "100000"}, 2.5),
        ("4:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "70000", "cpu/x/cpu.cfs_period_us": "100000"}, 0.7),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "0"}, None),
        ("4:memory:/\n", {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("nonsense\n", {}, None),
        ("", {}, None),
    ],
)
def test_the_lowest_quota_of_all_groups_counts(
    tmp_path: Path, own: str, files: dict[str, str], quota: float | None
) -> None:
    write(tmp_path, "cgroup", own)
    for name, text in files.items():
        write(tmp_path, name, text)
    assert read_cpu_quota(tmp_path, tmp_path / "cgroup") == quota
    assert count_cores() == max(1, min(CORES, int(quota or CORES)))


CORE_NUMBERS = sorted(os.sched_getaffinity(0))
TICKS = os.sysconf("SC_CLK_TCK")


def write_stat(path: Path, *counts: int, core: int = CORE_NUMBERS[0]) -> None:
    """Write ticks of one core: user, nice, system, idle, iowait, irq, softirq, steal."""
    path.write_text(f"cpu  1 1 1 1\ncpu{core} {' '.join(map(str, counts))} 0 0\nintr 5\n")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time now; this process itself uses none of it."""
    now = [100.0]
    monkeypatch.setattr(cpu, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(cpu, "_read_own", lambda: 0.0)
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
    monkeypatch.setattr(cpu, "_read_own", lambda: 0.5)
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
    assert 0 <= meter.count_busy_cores() <= len(CORE_NUMBERS)
    assert 0 <= waits.share_waited() <= 1
