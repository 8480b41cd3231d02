"""Cores and GPUs of runs that run in parallel."""

import os
from pathlib import Path

import pytest

from launch.local import placement, training_command


@pytest.mark.parametrize(
    ("runs", "expected"), [(1, [{0, 1, 5, 7}]), (2, [{0, 1}, {5, 7}]), (3, [{0}, {1}, {5}]), (5, [{0}, {1}])]
)
def test_each_run_has_cores_of_its_own(monkeypatch: pytest.MonkeyPatch, runs: int, expected: list[set[int]]) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 5, 7}, raising=False)
    assert [placement.choose_cores(place, runs) for place in range(runs)][: len(expected)] == expected
    assert placement.choose_cores(4, 5) == {0}


@pytest.mark.parametrize(
    ("runs", "ranks", "visible", "expected"),
    [
        (2, None, None, ["0,1", "2,3"]),
        (3, 1, None, ["0", "1", "2"]),
        (2, None, "7,5", ["7", "5"]),
        (2, 3, None, [None, None]),
        (5, None, None, [None, None]),
        (1, None, None, [None]),
        (2, 1, "", ["", ""]),
    ],
)
def test_each_run_has_gpus_of_its_own_where_there_are_enough(
    workdir: Path,
    monkeypatch: pytest.MonkeyPatch,
    runs: int,
    ranks: int | None,
    visible: str | None,
    expected: list[str | None],
) -> None:
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidia3", "nvidiactl"):
        (workdir / "dev" / name).parent.mkdir(exist_ok=True)
        (workdir / "dev" / name).touch()
    monkeypatch.setattr(training_command, "DEVICES", workdir / "dev")
    environ = {} if visible is None else {placement.VISIBLE: visible}
    found = [placement.build_slot_environment(place, runs, ranks, environ) for place in range(len(expected))]
    assert [each.get(placement.VISIBLE) for each in found] == expected
