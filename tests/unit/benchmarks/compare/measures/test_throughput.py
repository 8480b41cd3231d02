"""Samples a second, of ours, the peers and the bare step."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.compare.measures import start, throughput
from benchmarks.compare.session import Session, train
from benchmarks.compare.workloads import WORKLOADS, Workload
from benchmarks.processes import FailedError
from benchmarks.rounds import Reading
from tests.unit.benchmarks.records import make_reading, make_session


def test_a_rate_is_between_two_steps() -> None:
    lines = [
        {"step": 1, "time": 0.0},
        {"step": 50, "time": 10.0},
        {"step": 100, "time": 11.0},
        {"step": 150, "time": 14.0},
    ]
    assert throughput.rate(lines, 64, 50, 150) == 100 * 64 / 4


def test_a_rate_needs_both_steps() -> None:
    with pytest.raises(FailedError, match=r"no reading of step \[100\], only of \[50\]"):
        throughput.rate([{"step": 50, "time": 10.0}], 64, 50, 100)


def test_each_peer_has_the_workers_that_are_best_in_its_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {("no", 0): 100.0, ("no", 1): 150.0, ("no", 2): 90.0, ("bf16", 0): 100.0, ("bf16", 2): 300.0}
    asked: list[tuple[str, int]] = []

    def measured(mine: Session, workload: Workload, ranks: int, python: Path, module: str, more: list[str]) -> Reading:
        del mine, workload, ranks, python, module
        given = dict(zip(more[::2], more[1::2], strict=True))
        asked.append((given.get("--autocast", "no"), int(given["--workers"])))
        return make_reading(rates.get(asked[-1], 200.0))

    monkeypatch.setattr(throughput, "_read", measured)
    full = replace(make_session(tmp_path), quick=False)
    peers = throughput.PEERS["plain"], throughput.IN_BF16["plain bf16"]
    values = [[throughput.measure_peer(full, WORKLOADS["mnist"], 1, peer).value for peer in peers] for _ in range(2)]
    assert values == [[150.0, 300.0], [150.0, 300.0]]
    assert asked[-2:] == [("no", 1), ("bf16", 2)]
    assert len(asked) == 8


@pytest.mark.slow
def test_ours_and_the_bare_step_are_measured(tmp_path: Path) -> None:
    """Synthetic images need no files; the bare step in the format that ours has chosen."""
    mine = make_session(tmp_path)
    workload = replace(
        WORKLOADS["mnist"],
        log_every_steps=2,
        warm_up=2,
        quick_steps=4,
        overrides=("data.name=synthetic",),
    )
    measured = throughput.measure_ours(mine, workload, 1, "ours", ["train.precision=fp32", "data.global_batch=64"])
    assert measured.value > 0
    assert measured.outcome.largest > 0
    assert mine.choices["mnist", 1, "ours"]["precision"] == "fp32"
    ours = train(mine, workload, 1, "train.max_steps=1", "log.every_steps=1")
    assert start.first_step(ours).value > 0
    with pytest.raises(FailedError, match="ours auto did not run"):
        throughput.measure_bare_step(mine, workload, 1, as_="ours auto")
    mine = replace(mine, quick=True)
    bare = throughput.measure_bare_step(mine, replace(WORKLOADS["mnist"], quick_steps=50), 1, as_="ours")
    assert bare.value > 0
