"""What is a fault is found; `make torture` looks for them, and CI for a minute."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from tests.torture import __main__ as command
from tests.torture.bench import Bench
from tests.torture.cases import Case, Fault, Outcome, judge

SEED = 1


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with Bench() as made:
        yield made


@pytest.mark.long
@pytest.mark.parametrize("generator", command.GENERATORS)
def test_no_case_of_all_finds_a_fault(bench: Bench, generator: str) -> None:
    assert command.torture(generator, bench, SEED, None) == 0


TRACEBACK = 'Traceback (most recent call last):\n  File "/x/dist_train/train.py", line 7, in f\nKeyError: 3\n'
OUTCOMES = [
    (Outcome(0, "done"), None),
    (Outcome(2, "a.yaml:3: train.epoch is not a setting"), None),
    (Outcome(1, TRACEBACK), "traceback"),
    (Outcome(0, f"done\n{TRACEBACK}"), "traceback"),
    (Outcome(-11, ""), "crash"),
    (Outcome(None, "step 1"), "hang"),
    (Outcome(1, "no"), "exit code"),
    (Outcome(2, ""), "message"),
    (Outcome(2, "is not a setting"), "message"),
    (Outcome(0, "class \x1b[2J"), "message"),
    (Outcome(0, "class \u202e"), "message"),
    (Outcome(0, "class a\nFORGED: done"), "message"),
]


@pytest.mark.parametrize(("outcome", "kind"), OUTCOMES)
def test_a_fault_is_found(outcome: Outcome, kind: str | None) -> None:
    assert [fault.kind for fault in judge(outcome, {0, 2}, ["a.yaml"])] == ([kind] if kind else [])


def test_the_lines_of_a_log_that_a_command_prints_are_not_its_own() -> None:
    def find(outcome: Outcome) -> list[str]:
        return [fault.kind for fault in judge(outcome, {0, 2}, is_copy=True)]

    log = f"{TRACEBACK}FORGED: done\n"
    assert find(Outcome(0, log)) == []
    assert find(Outcome(0, f"{log}\x1b[2J")) == ["message"]
    assert find(Outcome(1, log)) == ["exit code"]
    assert find(Outcome(1, log + TRACEBACK, errors=TRACEBACK)) == ["traceback"]


def test_faults_are_counted_by_their_cause_with_the_command_that_repeats_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], bench: Bench
) -> None:
    bad = [Case(f"case {number}", lambda _: [Fault("traceback", TRACEBACK)]) for number in range(9)]
    generator = SimpleNamespace(cases=lambda *_: [*bad, Case("good", lambda _: [])])
    monkeypatch.setattr(command, "import_module", lambda _: generator)
    assert command.torture("settings", bench, SEED, None) == 9
    printed = capsys.readouterr().out
    assert printed.count("to repeat: python -m tests.torture settings --seed 1 --case 'case ") == command.SHOWN
    assert (
        "     9 times traceback: KeyError: _ at dist_train/train.py:7\nsettings 10: 9 tracebacks, 0 crashes" in printed
    )
    assert command.torture("settings", bench, SEED, None, "good") == 0
