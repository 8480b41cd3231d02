"""`dist-train submit` with a real Slurm: the jobs that it queues, and what it refuses."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.ranks.failures.killed import ON_MACHINES, assert_same_bits
from tests.slurm.cluster import CannotHaveCluster, Cluster

CPU = ("--gpus-per-node=0", "--time=5")


def submit(cluster: Cluster, here: Path, *arguments: str, patience: str = "60") -> "subprocess.CompletedProcess[str]":
    """Run `dist-train submit` on the login node, with a file of settings in `here`."""
    (here / "small.yaml").write_text(ON_MACHINES)
    command = (sys.executable, "-m", "launch", "submit", *arguments)
    return cluster.run("timeout", patience, *command, cwd=here, env={"PYTHONPATH": str(ROOT)})


def test_a_submitted_job_trains_and_is_written_down(
    cluster: Cluster, here: Path, undisturbed: Callable[[int], Path]
) -> None:
    done = submit(cluster, here, "small.yaml", *CPU, "--nodes=2", "--nproc-per-node=2", "run.dir=run")
    assert done.returncode == 0, done.stderr
    (here / "small.yaml").write_text("changed after the submission")
    directory = here / "run" / "jobs" / "1"
    about = json.loads((directory / "job.json").read_text())
    assert f"job {about['job_id']}: submitted" in done.stdout
    assert (about["nodes"], about["ranks"], about["array"]) == (2, 4, False)
    assert sorted(path.name for path in directory.iterdir()) == ["command.sh", "job.json", "small.yaml", "train.sbatch"]
    cluster.wait(about["job_id"], "COMPLETED")
    assert (here / "run" / "jobs" / f"slurm-{about['job_id']}.out").read_text() == cluster.output(about["job_id"])
    assert_same_bits(here / "run", undisturbed(4))


def test_a_run_has_one_job_at_a_time(cluster: Cluster, here: Path) -> None:
    first = submit(cluster, here, "small.yaml", *CPU, "run.dir=run", "--", "--hold")
    assert first.returncode == 0, first.stderr
    second = submit(cluster, here, "small.yaml", *CPU, "run.dir=run")
    assert second.returncode == 2
    assert "is PENDING" in second.stderr
    assert "dist-train cancel" in second.stderr


def test_a_job_that_slurm_has_forgotten_is_not_in_the_way(cluster: Cluster, here: Path) -> None:
    forgotten = here / "run" / "jobs" / "1" / "job.json"
    forgotten.parent.mkdir(parents=True)
    forgotten.write_text(json.dumps({"job_id": "99999", "array": False}))
    done = submit(cluster, here, "small.yaml", *CPU, "run.dir=run", "--", "--hold")
    assert done.returncode == 0, done.stderr
    assert (here / "run" / "jobs" / "2" / "job.json").exists()


def test_a_job_that_waits_for_ever_is_warned_of(cluster: Cluster, here: Path) -> None:
    """By default Slurm queues it."""
    done = submit(cluster, here, "small.yaml", "--gpus-per-node=0", "--time=2:00:00", "run.dir=run")
    assert done.returncode == 0, done.stderr
    assert "submitted, but it waits (Partition" in done.stdout


def test_a_dry_run_asks_slurm_and_leaves_nothing(cluster: Cluster, here: Path) -> None:
    done = submit(cluster, here, "small.yaml", *CPU, "--nodes=2", "--dry-run", "run.dir=run")
    assert done.returncode == 0, done.stderr
    assert "--nodes=2" in done.stdout
    assert (ROOT / "slurm" / "train.sbatch").read_text() in done.stdout
    assert "to start at" in done.stdout
    assert_nothing_is_left(cluster, here)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--nodes=5",), ("sbatch: ", "fewer --nodes")),
        (("--nodes=5", "--dry-run"), ("sbatch: ", "fewer --nodes")),
        (("--cpus-per-task=5",), ("sbatch: ", "--cpus-per-task")),
        (("--partition=nowhere",), ("invalid partition", "sinfo -s", "--partition")),
    ],
    ids=["nodes", "nodes-dry", "cpus", "partition"],
)
def test_a_job_that_can_never_run_is_refused(
    cluster: Cluster, here: Path, arguments: tuple[str, ...], message: tuple[str, ...]
) -> None:
    done = submit(cluster, here, "small.yaml", "--gpus-per-node=0", *arguments, "run.dir=run")
    assert_refused(done, message)
    assert_nothing_is_left(cluster, here)


@pytest.mark.slurm
def test_limits_and_a_full_queue_refuse_a_job(strict: Cluster) -> None:
    done = submit(strict, strict.work, "small.yaml", "--gpus-per-node=0", "--time=2:00:00", "run.dir=run")
    assert_refused(done, ("sbatch: ", "shorter --time"))
    assert_nothing_is_left(strict, strict.work)
    strict.submit("--hold", "--wrap=true", cwd=strict.work)
    done = submit(strict, strict.work, "small.yaml", *CPU, "run.dir=run")
    assert_refused(done, ("the queue is full", "cancel some"))
    assert not (strict.work / "run").exists()


@pytest.fixture
def strict() -> Iterator[Cluster]:
    """A cluster whose queue holds one job, and that refuses what exceeds the limits of a partition."""
    rules = "MaxJobCount=2\nEnforcePartLimits=ALL"
    try:
        with Cluster("strict", SLT_NODES="1", SLT_PROCTRACK="linuxproc", SLT_EXTRA_CONF=rules) as cluster:
            yield cluster
    except CannotHaveCluster as error:
        pytest.skip(str(error))


def assert_refused(done: "subprocess.CompletedProcess[str]", words: tuple[str, ...]) -> None:
    """Assert exit code 2 and a message with these words, without a traceback."""
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert [word for word in words if word not in done.stderr] == [], done.stderr


def assert_nothing_is_left(cluster: Cluster, here: Path) -> None:
    assert cluster.slurm("squeue", "--noheader") == ""
    assert [path.name for path in here.iterdir()] == ["small.yaml"]
