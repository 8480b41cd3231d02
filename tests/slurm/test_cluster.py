"""The cluster of the tests works."""

from tests.slurm.cluster import Cluster


def test_two_nodes_answer_by_their_names(cluster: Cluster) -> None:
    assert sorted(cluster.slurm("srun", "--nodes=2", "hostname").splitlines()) == ["n1", "n2"]
