"""The wait for a checkpoint."""

import pytest

from benchmarks.compare.measures import checkpoints
from benchmarks.processes import FailedError


def test_the_wait_for_a_checkpoint_is_the_time_without_training() -> None:
    lines = [
        {"step": 1, "time": 10.0, "samples_per_second": 80.0},
        {"step": 2, "time": 10.1, "samples_per_second": 80.0},
        {"step": 3, "time": 10.25, "samples_per_second": 80.0},
        {"step": 4, "time": 10.35, "samples_per_second": 80.0},
        {"step": 5, "time": 10.47, "samples_per_second": 80.0},
    ]
    assert checkpoints.waits(lines, 8, every=2) == [pytest.approx(0.05), pytest.approx(0.02)]
    with pytest.raises(FailedError, match="fewer than two steps were saved"):
        checkpoints.waits(lines, 8, every=3)
