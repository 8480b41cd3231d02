"""`dist-train submit`: the call of sbatch, held by golden files, and refusals before anything is queued."""

import os
from pathlib import Path

import pytest

from dist_train.run_dir import RunDir
from launch import cli
from tests.conftest import ROOT

GOLDEN = Path(__file__).parents[2] / "golden"
RENEW = "DIST_TRAIN_RENEW_GOLDEN"
"""Variable that rewrites the golden files; check the changes before you commit them."""
CONFIG = """
data: {name: synthetic, num_train: 64, num_test: 16, global_batch: 32}
model: {name: mnist_cnn}
train: {max_steps: 4, micro_batch: 3}
"""
PROFILE = """
partition: gpu
account: my-project
gpus_per_node: 4
cpus_per_task: 32
mem: 128G
time: 8:00:00
modules: [cuda/12.8, nccl]
container: /images/train it.sif
environment: {NCCL_SOCKET_IFNAME: ib0, GREETING: two words}
sbatch: [--constraint=a100]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's directory, on a machine without Slurm."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("launch.slurm.client.shutil.which", lambda _: None)
    monkeypatch.setattr("launch.slurm.resources.sys.executable", "/venv/bin/python")
    (tmp_path / "small.yaml").write_text(CONFIG)
    (tmp_path / "configs" / "clusters").mkdir(parents=True)
    (tmp_path / "configs" / "clusters" / "gpus.yaml").write_text(PROFILE)
    return tmp_path


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(["submit", *arguments])
    output = capsys.readouterr()
    return code, output.out, output.err


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("cpu", ["small.yaml", "--gpus-per-node", "0", "--nproc-per-node", "2", "--time", "10", "optim.lr=0.1"]),
        ("nodes", ["small.yaml", "--nodes", "2", "--gpus-per-node", "4", "--partition", "a100", "--qos", "high"]),
        ("profile", ["small.yaml", "--profile", "gpus", "--time", "1-0:00:00", "run.name=x", "--", "--nice=5"]),
        ("fresh", ["small.yaml", "--gpus-per-node", "1", "run.resume=never", "run.name=x"]),
        ("bitwise", ["small.yaml", "--nodes", "2", "--gpus-per-node", "2", "run.reproducible=bitwise"]),
    ],
)
def test_a_dry_run_prints_the_line_and_the_script(
    here: Path, capsys: pytest.CaptureFixture[str], name: str, arguments: list[str]
) -> None:
    at = arguments.index("--") if "--" in arguments else len(arguments)
    code, output, errors = asked(capsys, *arguments[:at], "--dry-run", *arguments[at:])
    assert (code, errors) == (0, "")
    line, script = output.split("\n\n", 1)
    assert script == (ROOT / "slurm" / "train.sbatch").read_text()
    golden = GOLDEN / f"submit_{name}.txt"
    if RENEW in os.environ:
        golden.write_text(f"{line}\n")
    assert f"{line}\n" == golden.read_text()
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.yaml", "--gpus-per-node", "0"], "none.yaml: cannot be read: No such file or directory"),
        (["small.yaml", "--gpus-per-node", "0", "optim.lrr=1"], "optim.lrr is not a setting. Did you mean optim.lr?"),
        (["small.yaml"], "--gpus-per-node is missing"),
        (["small.yaml", "--gpus-per-node", "3", "run.reproducible=bitwise"], "which 3 ranks can't share equally"),
        (["small.yaml", "--gpus-per-node", "0", "--time", "soon"], "--time: is 'soon'; it must be like 2:00:00"),
        (["small.yaml", "--profile", "nowhere"], "configs/clusters/nowhere.yaml does not exist; profiles in"),
        (["small.yaml", "--gpus-per-node", "0"], "sbatch: command not found; submit on a login node"),
    ],
)
def test_what_would_fail_is_refused_here(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.setenv("PATH", str(here))
    code, _, errors = asked(capsys, *arguments)
    assert (code, message in errors, "Traceback" in errors) == (2, True, False), errors
    assert not (here / "runs").exists()


def test_nothing_goes_to_sbatch_where_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["diff", "a", "b", "--", "--nice"]) == 2
    assert "takes no arguments after --; given: --nice" in capsys.readouterr().err


def test_a_run_is_as_it_was_where_nothing_could_be_queued(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """sbatch answers the check, but is missing when the job is submitted."""
    monkeypatch.setattr("launch.slurm.submission.check_submission", lambda *_: None)
    monkeypatch.setenv("PATH", str(here))
    run = here / "runs" / "small"
    assert asked(capsys, "small.yaml", "--gpus-per-node", "0")[0] == 2
    assert not run.exists()
    earlier = RunDir(run)
    earlier.claim(fresh_start=False)
    earlier.write_status("done", 4, 1, resumable=False)
    earlier.release()
    before = sorted(run.rglob("*"))
    code, output, _ = asked(capsys, "small.yaml", "--gpus-per-node", "0", "run.resume=never")
    assert (code, "the earlier run is runs/small again" in output) == (2, True)
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize("directory", ["/sys/run", "small.yaml/run"])
@pytest.mark.usefixtures("here")
def test_a_run_directory_that_can_not_be_written_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, directory: str
) -> None:
    monkeypatch.setattr("launch.slurm.submission.check_submission", lambda *_: None)
    code, _, errors = asked(capsys, "small.yaml", "--gpus-per-node", "0", f"run.dir={directory}")
    assert (code, directory in errors, "can't be written" in errors) == (2, True, True)
