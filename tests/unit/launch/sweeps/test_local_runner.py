"""What is said about the end of a trial."""

from pathlib import Path
from typing import Any, cast

import pytest

from launch.local.process_pool import LoggedProcess
from launch.sweeps import local_runner
from launch.sweeps.sweep_dir import Trial
from tests.unit.launch.run_files import leave_run

pytestmark = pytest.mark.usefixtures("runs_dir")


class EndedProcess:
    """A trial whose process has ended."""

    began = 0.0

    def __init__(self, code: int) -> None:
        self.code = code

    def wait(self) -> int:
        return self.code

    def read_last_lines(self) -> list[str]:
        return ["the last \x1b[31mline"]

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("code", "state", "expected", "message"),
    [
        (0, "done", 0, "trial 0: done, 50.00 %"),
        (0, "running", 1, "trial 0: failed: its exit code is 0, but it is running at step 8 of 10"),
        (0, "failed", 1, "trial 0: failed: its exit code is 0, but it is failed at step 8 of 10"),
        (0, None, 1, "trial 0: failed: its exit code is 0, but it is not begun at step 0"),
        (75, "preempted", 75, "trial 0: stopped, resumable"),
        (1, "failed", 1, "  | the last \\x1b[31mline"),
        (-9, "running", -9, "trial 0: killed by SIGKILL"),
    ],
)
def test_what_is_said_is_what_the_files_say(
    capsys: pytest.CaptureFixture[str], code: int, state: str | None, expected: int, message: str
) -> None:
    trial = Trial(Path("runs"), 0, ("optim.lr=1",), Path("runs/a"))
    if state:
        leave_run(trial.path, state, accuracy=0.5)
    process: Any = EndedProcess(code)
    assert local_runner._report_end(cast(LoggedProcess, process), trial) == expected
    assert message in capsys.readouterr().out
