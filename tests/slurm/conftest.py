"""The cluster that the tests of this directory share, and where their jobs work."""

from collections.abc import Iterator
from pathlib import Path

import pytest

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
    path = cluster.work / str(request.node.name).partition("[")[0]
    path.mkdir()
    return path
