"""`dist-train sweep`: what it refuses, and dry runs."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from launch.sweeps.sweep_dir import read_trials
from tests.conftest import ROOT
from tests.unit.launch.command import run_command
from tests.unit.launch.commands.training.test_submit import GOLDEN, RENEW
from tests.unit.launch.sweeps.sweep_files import begin, leave

pytestmark = pytest.mark.usefixtures("small_yaml")


SLURM = ("--slurm", "--gpus-per-node", 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--nodes", 2], "--nodes: only for Slurm jobs; add --slurm"),
        (["--cpus-per-task", 2, "--local"], "--cpus-per-task: only for Slurm jobs"),
        (["--", "--nice"], "flags after --: only for Slurm jobs"),
        ([*SLURM, "--nproc", 2], "with --slurm use --nproc-per-node"),
        (["--slurm"], "--gpus-per-node is missing"),
        ([*SLURM, "--nproc-per-node", 20], "data.global_batch is 16, less than the 20 ranks"),
        (["--slurm", "--local"], "not allowed with argument"),
        (["--nproc", 3, "run.reproducible=bitwise"], "which 3 ranks can't share equally"),
        (["--max-parallel", 0], "it must be a number from 1 up"),
        (list(SLURM), "sbatch: command not found"),
    ],
)
def test_what_can_t_be_is_refused_before_anything_is_written(
    workdir: Path, capsys: pytest.CaptureFixture[str], options: list[Any], message: str
) -> None:
    code, output = run_command(capsys, "sweep", "small.yaml", "optim.lr=0.1,0.2", *options)
    assert (code, message in output, "Traceback" in output) == (2, True, False), output
    assert not (workdir / "runs").exists()


def test_a_dry_run_here_lists_what_is_left(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leave(begin("optim.lr=0.1,0.2"), 0, "done")
    code, output = run_command(capsys, "sweep", "small.yaml", "optim.lr=0.1,0.2,0.3", "--dry-run")
    assert (code, output) == (
        0,
        "runs/small.sweep: 3 trials, 2 to be trained\n  1: optim.lr=0.2\n  2: optim.lr=0.3\n",
    )
    assert len(read_trials(workdir / "runs/small.sweep")) == 2


def test_a_dry_run_prints_the_line_and_the_script(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/venv/bin/python")
    leave(begin("optim.lr=0.1,0.2,0.3"), 1, "done")
    grid = ("optim.lr=0.1,0.2,0.3", "data.global_batch=16,32")
    code, output = run_command(capsys, "sweep", "small.yaml", *grid, *SLURM, "--max-parallel", 3, "--dry-run")
    assert code == 0
    line, script = output.split("\n\n", 1)
    assert script == (ROOT / "slurm" / "train.sbatch").read_text()
    golden = GOLDEN / "sweep.txt"
    if RENEW in os.environ:
        golden.write_text(f"{line}\n")
    assert f"{line}\n" == golden.read_text()


def test_a_sweep_that_is_done_asks_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    sweep = begin("optim.lr=0.1,0.2")
    for number in (0, 1):
        leave(sweep, number, "done")
    for options in ((), SLURM):
        code, output = run_command(capsys, "sweep", "small.yaml", "optim.lr=0.1,0.2", *options)
        assert (code, "2 trials, 0 to be" in output) == (0, True)
