"""Trainings as jobs of a real Slurm: after any fault the run ends with the bits of an undisturbed run."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ranks.failures.killed import assert_checkpoints_are_undamaged, assert_every_sample_once, assert_same_bits
from tests.slurm.cluster import Cluster
from tests.slurm.training import EVERY, Training

Undisturbed = Callable[[int], Path]
PAUSE = 0.25  # seconds between two steps, so that a fault hits the run


def assert_undisturbed(run: Path, undisturbed: Path) -> None:
    assert_same_bits(run, undisturbed)
    assert_every_sample_once(run)
    assert_checkpoints_are_undamaged(run, at_least=0)


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.slurm_long), 2], ids=["2x1", "2x2"])
def test_two_nodes_train_as_one_machine(cluster: Cluster, here: Path, undisturbed: Undisturbed, ranks: int) -> None:
    training = Training(cluster, here)
    training.submit("--nodes=2", nproc_per_node=str(ranks))
    training.finish()
    assert [start.restart for start in training.starts()] == [0]
    assert_undisturbed(training.run, undisturbed(2 * ranks))


def test_tasks_of_an_array_train_apart(cluster: Cluster, here: Path, undisturbed: Undisturbed) -> None:
    training = Training(cluster, here)
    training.submit("--array=0-1", settings=(f"run.dir={here}/run-%a",), nproc_per_node="2")
    for task in (0, 1):
        cluster.wait(f"{training.job}_{task}", "COMPLETED")
        assert_undisturbed(here / f"run-{task}", undisturbed(2))


class TestAnnounced:
    """An announced stop repeats no finished step."""

    def test_a_signal_before_the_time_limit(self, cluster: Cluster, here: Path, undisturbed: Undisturbed) -> None:
        # Slurm checks every 30 s and sends a signal up to that much early: here 15 to 45 s from now.
        training = Training(cluster, here, pause=0.8)
        training.submit("--nodes=2", "--time=1", "--signal=USR2@15", settings=save_only_on_stops(here))
        self.assert_stops_and_resumes(training)
        assert_undisturbed(training.run, undisturbed(2))

    @pytest.mark.slurm_long
    def test_requeue(self, cluster: Cluster, here: Path, undisturbed: Undisturbed) -> None:
        training = Training(cluster, here, PAUSE)
        training.submit("--nodes=2", settings=save_only_on_stops(here))
        training.wait_for_step(5)
        cluster.slurm("scontrol", "requeue", training.job)
        self.assert_stops_and_resumes(training)
        assert_undisturbed(training.run, undisturbed(2))

    @pytest.mark.slurm_long
    def test_the_time_limit(self, cluster: Cluster, here: Path, undisturbed: Undisturbed) -> None:
        """Without a signal before, KillWait gives five seconds; the job ends, and the next one resumes."""
        training = Training(cluster, here, pause=1.5)
        training.submit("--nodes=2", "--time=1", "--signal=USR2@0", settings=save_only_on_stops(here))
        training.wait_for_step(5)
        cluster.wait(training.job, "TIMEOUT")
        stopped = training.newest()
        assert 0 < training.step() <= stopped
        training.pause(0)
        training.submit("--nodes=2", settings=save_only_on_stops(here))
        training.finish()
        assert [(start.restart, start.step) for start in training.starts()] == [(0, stopped)]
        assert_undisturbed(training.run, undisturbed(2))

    def test_preemption(self, cluster: Cluster, here: Path, undisturbed: Undisturbed) -> None:
        training = Training(cluster, here, PAUSE)
        flags = ("--nodes=2", "--nodelist=n1,n2", "--exclusive")
        training.submit(*flags, "--partition=preempt", settings=save_only_on_stops(here))
        training.wait_for_step(5)
        cluster.submit(*flags, "--partition=debug", "--wrap=sleep 1", "--output=urgent.out", cwd=here)
        self.assert_stops_and_resumes(training)
        assert_undisturbed(training.run, undisturbed(2))

    @staticmethod
    def assert_stops_and_resumes(training: Training) -> None:
        reached = 0

        def is_stopped() -> bool:
            nonlocal reached
            reached = max(reached, training.step())
            return training.status().get("state") == "preempted"

        training.cluster.wait_for(is_stopped, training.job, timeout=90)
        training.pause(0)
        stopped = training.newest()
        training.finish()
        assert [(start.restart, start.step) for start in training.starts()] == [(0, 0), (1, stopped)]
        assert 0 < reached <= stopped


class TestUnannounced:
    """A loss without notice repeats at most the steps between two checkpoints."""

    @pytest.mark.parametrize("node", ["n2", pytest.param("n1", marks=pytest.mark.slurm_long)])
    def test_power_cut(self, cluster: Cluster, here: Path, undisturbed: Undisturbed, node: str) -> None:
        """Slurm notices after a while; the script of the job runs on the first node."""
        training = Training(cluster, here, PAUSE)
        training.submit("--nodelist=n1,n2", "--nodes=2")
        reached = self.lose(node, training)
        try:
            cluster.wait(training.job, "PENDING")
        finally:
            cluster.start(node)
        self.assert_resumes(training, reached)
        assert_undisturbed(training.run, undisturbed(2))

    @pytest.mark.slurm_long
    def test_reboot_of_the_first_node(self, cluster: Cluster, here: Path, undisturbed: Undisturbed) -> None:
        """The node is back before Slurm notices, and does not know the job any more."""
        training = Training(cluster, here, PAUSE)
        training.submit("--nodelist=n1,n2", "--nodes=2")
        reached = self.lose("n1", training)
        cluster.start("n1")
        self.assert_resumes(training, reached)
        assert_undisturbed(training.run, undisturbed(2))

    @pytest.mark.slurm_long
    @pytest.mark.parametrize("running", [""], ids=["usual"], indirect=True)
    def test_reboot_of_another_node(self, cluster: Cluster, here: Path, undisturbed: Undisturbed) -> None:
        """Slurm does not notice: srun waits until `--wait`, and then the node may answer again."""
        training = Training(cluster, here, PAUSE)
        training.submit("--nodelist=n1,n2", "--nodes=2")
        reached = self.lose("n2", training)
        cluster.start("n2")
        self.assert_resumes(training, reached, timeout=300)
        assert_undisturbed(training.run, undisturbed(2))

    @pytest.mark.slurm_long
    def test_a_killed_rank_without_restarts_in_place(
        self, cluster: Cluster, here: Path, undisturbed: Undisturbed
    ) -> None:
        training = Training(cluster, here, PAUSE)
        training.submit("--nodes=2", in_place="0")
        training.wait_for_step(2 * EVERY + 1)
        reached = training.step()
        training.kill_rank(1)
        training.pause(0)
        self.assert_resumes(training, reached)
        assert_undisturbed(training.run, undisturbed(2))

    @staticmethod
    def lose(node: str, training: Training) -> int:
        """Crash a node; return the number of finished steps."""
        training.wait_for_step(2 * EVERY + 1)
        reached = training.step()
        training.cluster.crash(node)
        training.pause(0)
        return reached

    @staticmethod
    def assert_resumes(training: Training, reached: int, timeout: float = 120) -> None:
        """Assert that a second start finishes the run and repeats at most the steps between two checkpoints."""
        training.finish(timeout)
        first, second = training.starts()
        assert (first.restart, first.step, second.restart) == (0, 0, 1)
        assert second.step >= reached - EVERY

    def test_a_killed_rank_is_replaced_in_place(self, cluster: Cluster, here: Path, undisturbed: Undisturbed) -> None:
        training = Training(cluster, here, PAUSE)
        training.submit("--nodes=2")
        training.wait_for_step(2 * EVERY + 1)
        reached = training.step()
        training.kill_rank(1)
        training.pause(0)
        training.finish()
        assert [start.restart for start in training.starts()] == [0]
        assert (training.status()["restarts"], training.status()["attempt"]) == (1, 2)
        assert training.status()["started_step"] >= reached - EVERY
        assert_undisturbed(training.run, undisturbed(2))


def save_only_on_stops(here: Path) -> tuple[str, ...]:
    """Return settings with which only a stop saves a checkpoint before the end."""
    return (f"run.dir={here / 'run'}", "checkpoint.every_steps=1000")
