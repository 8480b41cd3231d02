"""What rank 0 writes of a run while it runs."""

from pathlib import Path
from unittest.mock import Mock

import pytest

from dist_train.settings.loader import load_config
from dist_train.training.reporter import MainReporter


@pytest.fixture
def run(tmp_path: Path) -> Mock:
    found = Mock(metrics=tmp_path / "metrics.jsonl", curves=tmp_path / "tb", ledger=tmp_path / "ledger.jsonl")
    found.write_status.return_value = True
    return found


@pytest.fixture
def reporter(run: Mock, tmp_path: Path) -> MainReporter:
    path = tmp_path / "config.yaml"
    path.write_text("data: {name: digits}\nmodel: {name: lenet}\noptim: {lr: 0.1}\nlog: {tensorboard: false}\n")
    schedule = Mock(total_steps=10)
    schedule.epoch.return_value = 0
    return MainReporter(
        Mock(), load_config(path), run, Mock(step=0, evaluated_step=0), schedule, Mock(), "test", Mock()
    )


def test_the_status_is_written_once_a_step(reporter: MainReporter, run: Mock) -> None:
    """And again where something has happened since, or the disk has not taken it."""
    evaluation = Mock()
    evaluation.to_dict.return_value = {"split": "test", "loss": 1.0, "accuracy": 0.5}
    written = []
    for is_logged, is_evaluated, has_room in ((1, 0, 1), (0, 0, 1), (1, 1, 1), (1, 0, 0)):
        run.write_status.reset_mock()
        run.write_status.return_value = bool(has_room)
        reporter.count_step()
        if is_logged:
            reporter.write_train_line(1, 0.1, 1.0, 5.0)
        if is_evaluated:
            reporter.write_evaluation(1, evaluation)
        reporter.prepare_save()
        written.append(run.write_status.call_count)
    assert written == [1, 1, 2, 2]
    reporter.report_stop("SIGTERM")
    assert run.write_status.call_args.args[0] == "preempted"
    reporter.close()


@pytest.mark.parametrize("has_curves", [True, False])
def test_curves_are_named_where_there_are_some(
    reporter: MainReporter, run: Mock, caplog: pytest.LogCaptureFixture, *, has_curves: bool
) -> None:
    if has_curves:
        run.curves.mkdir()
    with caplog.at_level("INFO", logger="dist_train.training.reporter"):
        reporter.report_nothing_left({"split": "test", "accuracy": 0.5, "correct": 1, "count": 2})
    assert ("tensorboard --logdir" in caplog.text) is has_curves
    reporter.close()
