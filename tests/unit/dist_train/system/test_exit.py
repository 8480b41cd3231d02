"""The end of a command: its exit code, its error message, and which rank prints it."""

import json
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from dist_train import __version__
from dist_train.errors import ConfigError, DataError, RefusedElsewhereError, UserError
from dist_train.system.exit import PATIENCE, describe_versions, only_first_rank_reports, run_guarded
from tests.conftest import Python


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("pass", 0, ""),
        ("raise ValueError('a fault')", 1, "ValueError: a fault"),
        ("raise errors.DataError('data.root: nothing there')", 2, "data.root: nothing there"),
        ("raise KeyboardInterrupt", 130, ""),
    ],
)
def test_a_command_ends_with_its_code(python: Python, body: str, code: int, message: str) -> None:
    program = (
        "from dist_train import errors\nfrom dist_train.system.exit import leave, run_guarded\n"
        f"def main():\n    {body}\nleave(run_guarded(main))"
    )
    done = python("-c", program)
    assert done.returncode == code
    assert done.stdout == ""
    if code == 1:
        assert done.stderr.startswith("Traceback")
        assert done.stderr.endswith(message + "\n")
    else:
        assert done.stderr == (f"{message}\n" if message else "")


@pytest.mark.parametrize("change", ["sys.stdout.close()", "sys.stdout = None", "sys.stdout = sys.stderr = None"])
def test_a_module_that_takes_the_output_away_fails_no_command(python: Python, change: str) -> None:
    program = (
        f"import sys\nfrom dist_train.system.exit import leave, run_guarded\ndef main():\n    {change}\n"
        "leave(run_guarded(main))"
    )
    assert python("-c", program).returncode == 0


def test_versions_are_on_one_line() -> None:
    found = re.fullmatch(r"dist-train (\S+), torch (\S+), Python (\S+)", describe_versions())
    assert found is not None
    assert found.groups() == (__version__, metadata.version("torch"), sys.version.split()[0])
    assert torch.__version__.startswith(found[2])


@pytest.fixture
def error_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that torchrun sets for a rank."""
    path = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    return path


@pytest.mark.parametrize("refusal", [ConfigError("optim.lr: no"), KeyboardInterrupt()])
def test_a_refusal_is_not_recorded_for_torchrun(error_file: Path, refusal: BaseException) -> None:
    def main() -> None:
        raise refusal

    assert run_guarded(main) == (2 if isinstance(refusal, UserError) else 130)
    assert not error_file.exists()


def test_a_fault_is_recorded_for_torchrun(error_file: Path) -> None:
    def main() -> None:
        raise ZeroDivisionError("a fault")

    assert run_guarded(main) == 1
    assert "ZeroDivisionError" in json.loads(error_file.read_text())["message"]["message"]


def test_a_success_under_torchrun_records_nothing(error_file: Path) -> None:
    assert run_guarded(lambda: None) == 0
    assert not error_file.exists()


@pytest.mark.parametrize(("local_rank", "waits"), [(None, False), ("0", False), ("1", True), ("7", True)])
def test_the_first_rank_of_a_machine_reports_before_the_others(
    monkeypatch: pytest.MonkeyPatch, local_rank: str | None, waits: bool
) -> None:
    """The launcher ends the others in the meantime; a rank that still runs has an error of its own."""
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    with pytest.raises(DataError, match="nothing there"), only_first_rank_reports():
        raise DataError("nothing there")
    assert slept == ([PATIENCE] if waits else [])


def test_a_rank_that_was_refused_elsewhere_leaves_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)

    def main() -> None:
        raise RefusedElsewhereError("rank 0 refused")

    assert run_guarded(main) == 2
    assert slept == [PATIENCE]
    assert capsys.readouterr().err == ""
