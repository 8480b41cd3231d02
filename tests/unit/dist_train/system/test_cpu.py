"""How many cores a process may use: its affinity, the quota of its container, and a variable."""

import os
from pathlib import Path

import pytest

from dist_train.system import cpu
from dist_train.system.cpu import count_cores, read_cpu_quota

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
