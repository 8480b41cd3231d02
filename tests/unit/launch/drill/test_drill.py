"""The drill: what it refuses, and to how many ranks it resizes a run."""

import signal
from pathlib import Path

import pytest

from dist_train.settings.loader import load_config
from launch.drill.drill import Drill
from launch.drill.training_process import TrainingProcess
from tests.unit.launch.command import run_command
from tests.unit.launch.drill.drill_files import SMALL


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path / "small.yaml"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--faults", "kill,flood"], "flood: no such fault; there are kill, "),
        (["--rounds", "0"], "is '0'; it must be a number from 1 up"),
        (["optim.lrr=1"], "optim.lrr is not a setting"),
    ],
)
def test_bad_input_is_refused(
    config: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    code, output = run_command(capsys, "drill", config, *options)
    assert (code, message in output) == (2, True)


def test_a_directory_of_others_is_left_alone(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (config.parent / "small.drill").mkdir()
    (config.parent / "small.drill" / "thesis.tex").write_text("")
    code, output = run_command(capsys, "drill", config, f"run.dir={config.parent / 'small'}")
    assert (code, "has files of something else" in output) == (2, True)


def test_a_run_that_fails_without_a_fault_ends_the_drill(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class FailingProcess(TrainingProcess):
        def start(self, *_: object, **__: object) -> None:
            pass

        def wait_for_exit(self) -> int:
            return 2

        def read_output(self) -> str:
            return "no such directory"

        def kill(self) -> None:
            pass

    monkeypatch.setattr("launch.drill.drill.TrainingProcess", FailingProcess)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    code, output = run_command(capsys, "drill", config, f"run.dir={config.parent / 'small'}")
    assert (code, "the run without a fault ended with exit code 2:\nno such directory\n" in output) == (1, True)


def test_other_sizes_divide_the_shards(config: Path) -> None:
    drill = Drill(load_config(config), str(config), (), 2)
    assert drill.list_other_sizes(2, "elastic") == [1, 3, 4]
    assert drill.list_other_sizes(2, "bitwise") == [1, 4]
    assert drill.list_other_sizes(4, "bitwise") == [1, 2]
