"""The command and the environment of a training on this machine."""

import os
import sys
from pathlib import Path

import pytest

from dist_train.settings.schema import Distributed
from launch.arguments import AUTO
from launch.local import training_command


@pytest.mark.parametrize(
    ("ranks", "restarts", "expected"),
    [
        (1, 0, ["-m", "dist_train"]),
        (1, 2, ["-m", "dist_train.elastic.agent", "--nproc", "1", "--max-restarts", "2"]),
        (3, 0, ["-m", "dist_train.elastic.agent", "--nproc", "3", "--max-restarts", "0"]),
        (None, 0, ["-m", "dist_train.elastic.agent", "--nproc", "auto", "--max-restarts", "0"]),
    ],
)
def test_one_process_needs_no_agent(ranks: int | None, restarts: int, expected: list[str]) -> None:
    assert training_command.build_command(["a.yaml", "b=1", "c=2"], ranks, restarts) == [
        sys.executable,
        *expected,
        "a.yaml",
        "b=1",
        "c=2",
    ]


@pytest.mark.parametrize(
    ("backend", "files", "visible", "expected"),
    [
        ("auto", [], None, 1),
        ("auto", ["nvidia0", "nvidia1"], None, None),
        ("nccl", ["nvidia0"], "0", None),
        ("auto", ["kfd"], None, None),
        ("gloo", ["nvidia0"], None, 1),
        ("auto", ["nvidia0"], "", 1),
        ("auto", ["nvidia0"], "-1", 1),
        ("auto", ["nvidiactl", "nvidia-uvm"], None, 1),
    ],
)
def test_auto_is_one_process_where_there_is_no_gpu(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    backend: str,
    files: list[str],
    visible: str | None,
    expected: int | None,
) -> None:
    for name in files:
        (tmp_path / name).touch()
    monkeypatch.setattr(training_command, "DEVICES", tmp_path)
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert training_command.resolve_ranks(AUTO, Distributed.model_validate({"backend": backend}), environ) == expected
    assert training_command.resolve_ranks(5, Distributed(), environ) == 5


def test_ranks_share_the_cores_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    assert training_command.build_environment(4, {"A": "b"}) == {"A": "b", "OMP_NUM_THREADS": "3"}
    assert training_command.build_environment(2, {}, runs=3) == {"OMP_NUM_THREADS": "2"}
    assert training_command.build_environment(100, {})["OMP_NUM_THREADS"] == "1"
    assert training_command.build_environment(4, {"OMP_NUM_THREADS": "7"}) == {"OMP_NUM_THREADS": "7"}
