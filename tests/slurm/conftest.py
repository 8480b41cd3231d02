"""The cluster that the tests of this directory share, and a directory for the jobs of each test."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Python
from tests.ranks.failures.killed import ON_MACHINES
from tests.slurm.cluster import CannotHaveCluster, Cluster

# The way in which Slurm tracks processes decides which get a signal: with cgroup, the usual one, only the task.
TRACKERS = [
    pytest.param("", id="usual", marks=pytest.mark.slurm),  # cgroup, if this machine has it
    pytest.param("linuxproc", id="linuxproc", marks=pytest.mark.slurm_long),
]


@pytest.fixture(scope="session", params=TRACKERS)
def running(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    try:
        with Cluster("main", SLT_PROCTRACK=request.param) as cluster:
            yield cluster
    except CannotHaveCluster as error:
        pytest.skip(str(error))


@pytest.fixture
def cluster(running: Cluster) -> Iterator[Cluster]:
    """The running cluster; after the test jobs are ended and nodes started."""
    yield running
    running.clear()


@pytest.fixture
def here(cluster: Cluster, request: pytest.FixtureRequest) -> Path:
    """A directory of the test that all nodes share."""
    return Path(tempfile.mkdtemp(prefix=f"{request.function.__name__}-", dir=cluster.work))


@pytest.fixture(scope="session")
def undisturbed(python: Python, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Return the directory of an undisturbed run without Slurm on a number of ranks; train it on the first call."""
    there = tmp_path_factory.mktemp("undisturbed")
    (there / "small.yaml").write_text(ON_MACHINES)

    def run(ranks: int) -> Path:
        directory = there / str(ranks)
        if not directory.exists():
            command = ("-m", "launch", "train", str(there / "small.yaml"), f"--nproc={ranks}")
            done = python(*command, f"run.dir={directory}")
            assert done.returncode == 0, done.stderr
        return directory

    return run
