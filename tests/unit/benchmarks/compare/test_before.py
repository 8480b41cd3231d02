"""This version beside an earlier one."""

from pathlib import Path

import pytest

from benchmarks.compare import before, checkout
from benchmarks.compare.measures import checkpoints, start, throughput
from benchmarks.compare.workloads import WORKLOADS
from benchmarks.processes import ROOT, FailedError, Outcome
from benchmarks.rounds import Case, Task
from dist_train.errors import UserError
from tests.unit.benchmarks.records import make_reading, make_record, make_session

OLD_REFERENCE = """
- `data.loader`: auto, resident, workers. Default: `auto`. `resident`: all pictures decoded once.
- `log.every`: a whole number of at least 1. Default: `50`.
- `checkpoint.every_steps`: a whole number of at least 1, or null.
"""


def reference(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(checkout, "run", lambda *_, **__: Outcome(0.0, 1.0, 0.0, 0, 0, text))


def test_settings_have_the_names_of_the_earlier_version(monkeypatch: pytest.MonkeyPatch) -> None:
    reference(monkeypatch, OLD_REFERENCE)
    old = checkout.open_checkout(ROOT)
    assert old.translate("log.every_steps=5") == "log.every=5"
    assert old.translate("checkpoint.every_steps=5") == "checkpoint.every_steps=5"
    assert old.translate("data.loader=in_memory") == "data.loader=resident"
    assert old.translate("data.loader=workers") == "data.loader=workers"
    assert old.translate("run.name=a=b") == "run.name=a=b"


@pytest.mark.slow
def test_this_version_needs_no_translation() -> None:
    assert checkout.open_checkout(ROOT) == checkout.Checkout(ROOT)


def test_a_checkout_that_does_not_run_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no dist_train in it"):
        checkout.open_checkout(tmp_path)

    def fail(*_: object, **__: object) -> Outcome:
        raise FailedError("exit code 1")

    monkeypatch.setattr(checkout, "run", fail)
    with pytest.raises(UserError, match="--settings fails there: exit code 1"):
        checkout.open_checkout(ROOT)


@pytest.mark.parametrize("only_ours", [True, False])
def test_the_earlier_version_runs_right_after_ours(tmp_path: Path, only_ours: bool) -> None:
    now, then = (list(throughput.tasks(make_session(tmp_path), [WORKLOADS["mnist"]], [1])) for _ in range(2))
    paired = list(before.pair_tasks(now, then, only_ours))
    names = [task.cases[0].name for task in paired]
    ours = ["ours", "before: ours", "ours auto", "before: ours auto"]
    assert [name for name in names if "ours" in name and not name.startswith("bare step")] == ours
    assert ("plain" in names) is ("bare step" in names) is not only_ours
    measures = [task.measure for task in paired if task.cases[0].name.startswith("before: ")]
    assert measures == [task.measure for task in then if task.cases[0].name in throughput.OURS]


def test_only_whole_commands_are_compared(tmp_path: Path) -> None:
    session = make_session(tmp_path)
    tasks = [*start.tasks(session), *start.import_tasks(session), *checkpoints.wait_tasks(session)]
    names = [task.cases[0].name for task in tasks if before.is_ours(task)]
    assert names == [start.TORCHRUN, start.DIST_TRAIN, "ours"]


def test_the_table_shows_how_many_times_as_fast_this_version_is() -> None:
    rate, seconds = throughput.case("mnist", 1, "ours"), Case("start", "mnist", 2, "ours, torchrun", "s")
    before_rate, before_seconds = map(before.case_before, (rate, seconds))
    records = [
        make_record(case, number, value)
        for number, factor in enumerate((1.0, 2.0))
        for case, value in ((rate, 30 * factor), (before_rate, 20), (seconds, 2), (before_seconds, 3))
    ]
    text = before.before_table([*records, make_record(throughput.case("mnist", 1, "plain"), 0, 1.0)])
    net = "MNIST example net, batch 64"
    one = f"| throughput | {net} | 1 | ours | 45.0 samples/s | 20.0 samples/s | 2.25 (1.50 to 3.00, n 2) |"
    two = f"| start | {net} | 2 | ours, torchrun | 2.00 s | 3.00 s | 1.50 (1.50 to 1.50, n 2) |"
    assert text.splitlines()[2:] == [one, two]
    assert before.before_table([make_record(rate, 0, 1.0)]) == ""


def test_tasks_of_both_versions_have_to_be_the_same() -> None:
    task = Task.of(throughput.case("mnist", 1, "ours"), lambda: make_reading(1.0))
    with pytest.raises(ValueError, match="shorter"):
        list(before.pair_tasks([task, task], [task], only_ours=False))
