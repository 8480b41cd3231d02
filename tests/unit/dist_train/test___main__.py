"""Which starts of `python -m dist_train` choose their number of threads by what other programs use."""

import os
from pathlib import Path

import pytest

from dist_train.__main__ import leave_cores_to_others
from dist_train.settings.loader import load_config
from dist_train.system.cpu import LoadMeter


class Busy(LoadMeter):
    def count_busy_cores(self, processes: int = 1) -> float:  # noqa: ARG002
        return 1.0


@pytest.mark.parametrize(
    ("settings", "has_checkpoint", "leaves"),
    [
        ([], False, True),
        ([], True, False),  # it has its number of threads
        (["run.resume=never"], True, True),
        (["distributed.threads=2"], False, False),
        (["run.deterministic=true"], False, False),
        (["run.reproducible=bitwise"], False, False),
    ],
)
def test_only_a_start_that_chooses_threads_looks_at_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str], has_checkpoint: bool, leaves: bool
) -> None:
    monkeypatch.setenv("DIST_TRAIN_CORES", "")
    monkeypatch.delenv("DIST_TRAIN_CORES")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    if has_checkpoint:
        (tmp_path / "checkpoints/step_00000002").mkdir(parents=True)
        (tmp_path / "checkpoints/step_00000002/manifest.json").touch()
    config = load_config("configs/digits.yaml", [f"run.dir={tmp_path}", *settings])
    assert (leave_cores_to_others(config, Busy()) is not None) is leaves
    assert ("DIST_TRAIN_CORES" in os.environ) is leaves
