"""Drills of a real run."""

import json
from pathlib import Path

import pytest

from launch.drill.faults import FAULTS
from tests.conftest import Python
from tests.unit.launch.drill.drill_files import SMALL


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path / "small.yaml"


def drill(python: Python, config: Path, *options: str, timeout: float = 240) -> tuple[int, str, str]:
    where = (str(config), f"run.dir={config.parent / 'small'}")
    done = python("-m", "launch", "drill", *where, *options, timeout=timeout)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_a_drill_injects_faults_recovers_and_compares(config: Path, python: Python) -> None:
    faults = ["kill-in-save", "corrupt-latest", "disk-full", "nan"]
    code, output, errors = drill(python, config, "--rounds", "4", "--faults", ",".join(faults))
    assert code == 0, output + errors
    *_, last = output.splitlines()
    assert last == "4 passed, 0 failed"
    result = json.loads((config.parent / "small.drill" / "drill.json").read_text())
    assert [each["fault"] for each in result["rounds"]] == faults
    assert all(each["verdict"] == "same weights" for each in result["rounds"])
    assert (config.parent / "small.drill" / "undisturbed_elastic" / "status.json").exists()
    assert not (config.parent / "small").exists()


@pytest.mark.long
def test_every_fault_twice(config: Path, python: Python) -> None:
    code, output, errors = drill(python, config, "--rounds", str(2 * len(FAULTS)), "--seed", "1", timeout=600)
    assert code == 0, output + errors
    assert "under bitwise same weights" in output
