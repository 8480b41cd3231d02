"""The cluster that the tests of this directory share, and where their jobs work."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Python
from tests.ranks.killed import ON_MACHINES
from tests.slurm.cluster import CannotHaveCluster, Cluster

# How Slurm knows the processes of a task decides whom it signals: with cgroup, as on most clusters, the task alone.
TRACKERS = [
    pytest.param("", id="usual", marks=pytest.mark.slurm),  # cgroup, where this machine has it
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
    """The running cluster without jobs, and with all its nodes."""
    yield running
    running.clear()


@pytest.fixture
def here(cluster: Cluster, request: pytest.FixtureRequest) -> Path:
    """A directory of the test that all nodes see."""
    return Path(tempfile.mkdtemp(prefix=f"{request.function.__name__}-", dir=cluster.work))


@pytest.fixture(scope="session")
def undisturbed(python: Python, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """The directory of a run on so many ranks that nothing has happened to, and that no Slurm has started."""
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
