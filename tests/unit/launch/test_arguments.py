"""Arguments that several commands take."""

import argparse
from pathlib import Path

import pytest

from launch.arguments import to_seconds
from launch.cli import COMMANDS, load_command
from tests.unit.launch.command import run_command


@pytest.mark.parametrize(
    ("time", "expected"),
    [("90", 5400), ("1:30", 90), ("2:00:00", 7200), ("1-12", 129600), ("1-0:30", 88200), ("2-1:02:03", 176523)],
)
def test_seconds_of_a_time_limit(time: str, expected: int) -> None:
    assert to_seconds(time) == expected


WRONG = (
    *("-1", "1e9", "inf", "0x10", "1_000", "", " ", "\u00b2", "\u0663", "9" * 30, "9" * 5000, "1.5", "None", "x", "-"),
    *("+", "1:", "1--2", "NaN"),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_numbers_of_any_size_are_refused(capsys: pytest.CaptureFixture[str], command: str) -> None:
    """Each option with a type of its own: the numbers, the times and the faults of a drill."""
    parser = argparse.ArgumentParser()
    load_command(command).add_arguments(parser)
    typed = [action for action in parser._actions if action.type not in (None, Path) and action.option_strings]
    for option in (action.option_strings[-1] for action in typed):
        for text in WRONG:
            code, output = run_command(capsys, command, "x", f"{option}={text}")
            assert (code, option in output, "Traceback" in output) == (2, True, False), (option, text, output)
            assert all(len(line) < 400 for line in output.splitlines()), (option, text)
