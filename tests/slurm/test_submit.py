"""`dist-train submit` before a real Slurm: what it queues, and what it says where nothing can be queued."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.ranks.killed import ON_MACHINES, assert_same_bits
from tests.slurm.cluster import CannotHaveCluster, Cluster

CPU = ("--gpus-per-node=0", "--time=5")


def submit(cluster: Cluster, here: Path, *arguments: str, patience: str = "60") -> "subprocess.CompletedProcess[str]":
    """Run it on the login node, with a file of settings in `here`."""
    (here / "small.yaml").write_text(ON_MACHINES)
    command = (sys.executable, "-m", "launch", "submit", *arguments)
    return cluster.run("timeout", patience, *command, cwd=here, env={"PYTHONPATH": str(ROOT)})


def test_a_submitted_job_trains_and_is_written_down(
    cluster: Cluster, here: Path, undisturbed: Callable[[int], Path]
) -> None:
    done = submit(cluster, here, "small.yaml", *CPU, "--nodes=2", "--nproc-per-node=2", "run.dir=run")
    assert done.returncode == 0, done.stderr
    (here / "small.yaml").write_text("changed after the submission")
    place = here / "run" / "jobs" / "1"
    about = json.loads((place / "job.json").read_text())
    assert f"job {about['job_id']}: submitted" in done.stdout
    assert (about["nodes"], about["ranks"], about["array"]) == (2, 4, False)
    assert sorted(path.name for path in place.iterdir()) == ["command.sh", "job.json", "small.yaml", "train.sbatch"]
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


def test_a_job_that_waits_for_ever_is_told_of(cluster: Cluster, here: Path) -> None:
    """Slurm's default is to take it all the same."""
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


@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["", "dry"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("small.yaml", "--nodes=5"), ("sbatch: ", "fewer --nodes")),
        (("small.yaml", "--cpus-per-task=5"), ("sbatch: ", "--cpus-per-task")),
        (("small.yaml", "--partition=nowhere"), ("invalid partition", "sinfo -s", "--partition")),
        (("small.yaml", "optim.lrr=0.1"), ("optim.lrr is not a setting", "optim.lr?")),
        (("missing.yaml",), ("missing.yaml",)),
        (("small.yaml", "--nodes=2", "--nproc-per-node=20"), ("data.global_batch is 30", "40 ranks")),
    ],
    ids=["nodes", "cpus", "partition", "typo", "config", "batch"],
)
def test_what_can_never_run_is_refused(
    cluster: Cluster, here: Path, arguments: tuple[str, ...], said: tuple[str, ...], dry: tuple[str, ...]
) -> None:
    done = submit(cluster, here, "--gpus-per-node=0", *arguments, *dry, "run.dir=run")
    assert_refused(done, said)
    assert_nothing_is_left(cluster, here)


@pytest.mark.parametrize("place", ["/sys/run", "small.yaml/run"])
def test_a_run_directory_that_can_not_be_written(cluster: Cluster, here: Path, place: str) -> None:
    done = submit(cluster, here, "small.yaml", *CPU, f"run.dir={place}")
    assert_refused(done, (place, "can't be written", "run.dir"))
    assert_nothing_is_left(cluster, here)


@pytest.mark.slurm
def test_a_full_queue(strict: Cluster) -> None:
    strict.submit("--hold", "--wrap=true", cwd=strict.work)
    done = submit(strict, strict.work, "small.yaml", *CPU, "run.dir=run")
    assert_refused(done, ("the queue is full", "cancel some"))
    assert not (strict.work / "run").exists()


@pytest.mark.slurm
def test_more_time_than_the_partition_gives(strict: Cluster) -> None:
    done = submit(strict, strict.work, "small.yaml", "--gpus-per-node=0", "--time=2:00:00", "run.dir=run")
    assert_refused(done, ("sbatch: ", "shorter --time"))
    assert_nothing_is_left(strict, strict.work)


@pytest.fixture
def strict() -> Iterator[Cluster]:
    """A cluster that takes one job and no more, and none that asks for what its partition never gives."""
    rules = "MaxJobCount=2\nEnforcePartLimits=ALL"
    try:
        with Cluster("strict", SLT_NODES="1", SLT_PROCTRACK="linuxproc", SLT_EXTRA_CONF=rules) as cluster:
            yield cluster
    except CannotHaveCluster as error:
        pytest.skip(str(error))


def assert_refused(done: "subprocess.CompletedProcess[str]", said: tuple[str, ...]) -> None:
    """With a message that has these words, and no traceback."""
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert [words for words in said if words not in done.stderr] == [], done.stderr


def assert_nothing_is_left(cluster: Cluster, here: Path) -> None:
    assert cluster.slurm("squeue", "--noheader") == ""
    assert [path.name for path in here.iterdir()] == ["small.yaml"]
