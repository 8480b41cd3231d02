"""The time of an evaluation."""

import pytest

from benchmarks.compare.measures import evaluation
from benchmarks.processes import FailedError


def test_an_evaluation_follows_the_line_of_its_step() -> None:
    trained = [{"step": 5, "time": 1.0}, {"step": 10, "time": 3.0}]
    evaluated = [{"step": 5, "time": 1.5}, {"step": 10, "time": 3.25}]
    assert evaluation.durations(trained, evaluated) == [0.5, 0.25]
    with pytest.raises(FailedError, match="1 evaluation"):
        evaluation.durations(trained, evaluated[:1])
