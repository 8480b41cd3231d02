"""Trainings as jobs of a real Slurm: whatever happens to one, it ends with the bits of an undisturbed run."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ranks.killed import assert_all_whole, assert_every_sample_once, assert_same_bits
from tests.slurm.cluster import Cluster
from tests.slurm.training import EVERY, Training

Undisturbed = Callable[[int], Path]
PAUSE = 0.25  # seconds between two steps of a start that is about to be hit


def assert_as_if_nothing_had_happened(run: Path, undisturbed: Path) -> None:
    assert_same_bits(run, undisturbed)
    assert_every_sample_once(run)
    assert_all_whole(run, at_least=0)


@pytest.mark.parametrize(
    ("ranks", "launch"), [(1, "torchrun"), (2, "torchrun"), (2, "srun")], ids=["2x1", "2x2", "2x2-srun"]
)
def test_two_nodes_train_as_one_machine(
    cluster: Cluster, here: Path, undisturbed: Undisturbed, ranks: int, launch: str
) -> None:
    training = Training(cluster, here)
    training.submit("--nodes=2", nproc_per_node=str(ranks), launch=launch)
    training.finish()
    assert [start.restart for start in training.starts()] == [0]
    assert_as_if_nothing_had_happened(training.run, undisturbed(2 * ranks))


def test_tasks_of_an_array_train_apart(cluster: Cluster, here: Path, undisturbed: Undisturbed) -> None:
    training = Training(cluster, here)
    training.submit("--array=0-1", settings=(f"run.dir={here}/run-%a",), nproc_per_node="2")
    for task in (0, 1):
        cluster.wait(f"{training.job}_{task}", "COMPLETED")
        assert_as_if_nothing_had_happened(here / f"run-{task}", undisturbed(2))


class TestAnnounced:
    """A stop that is told beforehand costs no step that was finished before it."""

    def test_a_signal_before_the_time_limit(self, cluster: Cluster, here: Path, undisturbed: Undisturbed) -> None:
        # Slurm looks every 30 s for signals that are due, and sends one that far too early: here 15 to 45 s from now.
        training = Training(cluster, here, pause=0.8)
        training.submit("--nodes=2", "--time=1", "--signal=USR2@15", settings=rarely_saved(here))
        self.is_stopped_and_goes_on(training)
        assert_as_if_nothing_had_happened(training.run, undisturbed(2))

    def test_requeue(self, cluster: Cluster, here: Path, undisturbed: Undisturbed) -> None:
        training = Training(cluster, here, PAUSE)
        training.submit("--nodes=2", settings=rarely_saved(here))
        training.wait_for_step(5)
        cluster.slurm("scontrol", "requeue", training.job)
        self.is_stopped_and_goes_on(training)
        assert_as_if_nothing_had_happened(training.run, undisturbed(2))

    @pytest.mark.slurm_long
    def test_the_time_limit(self, cluster: Cluster, here: Path, undisturbed: Undisturbed) -> None:
        """Without a signal before, there are KillWait's five seconds; such a job is over, and the next one goes on."""
        training = Training(cluster, here, pause=1.5)
        training.submit("--nodes=2", "--time=1", "--signal=USR2@0", settings=rarely_saved(here))
        training.wait_for_step(5)
        cluster.wait(training.job, "TIMEOUT")
        stopped = training.newest()
        assert 0 < training.step() <= stopped
        training.pause(0)
        training.submit("--nodes=2", settings=rarely_saved(here))
        training.finish()
        assert [(start.restart, start.step) for start in training.starts()] == [(0, stopped)]
        assert_as_if_nothing_had_happened(training.run, undisturbed(2))

    @pytest.mark.parametrize("launch", ["torchrun", pytest.param("srun", marks=pytest.mark.slurm_long)])
    def test_preemption(self, cluster: Cluster, here: Path, undisturbed: Undisturbed, launch: str) -> None:
        training = Training(cluster, here, PAUSE)
        flags = ("--nodes=2", "--nodelist=n1,n2", "--exclusive")
        training.submit(*flags, "--partition=preempt", settings=rarely_saved(here), launch=launch)
        training.wait_for_step(5)
        cluster.submit(*flags, "--partition=debug", "--wrap=sleep 1", "--output=urgent.out", cwd=here)
        self.is_stopped_and_goes_on(training)
        assert_as_if_nothing_had_happened(training.run, undisturbed(2))

    @staticmethod
    def is_stopped_and_goes_on(training: Training) -> None:
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
    """A loss that nobody tells of costs no more steps than lie between two checkpoints."""

    @pytest.mark.parametrize("node", ["n2", pytest.param("n1", marks=pytest.mark.slurm_long)])
    def test_power_cut(self, cluster: Cluster, here: Path, undisturbed: Undisturbed, node: str) -> None:
        """Slurm misses the node after a while; the job's script runs on the first one."""
        training = Training(cluster, here, PAUSE)
        training.submit("--nodelist=n1,n2", "--nodes=2")
        reached = self.lose(node, training)
        try:
            cluster.wait(training.job, "PENDING")
        finally:
            cluster.start(node)
        self.goes_on(training, reached)
        assert_as_if_nothing_had_happened(training.run, undisturbed(2))

    @pytest.mark.slurm_long
    def test_reboot_of_the_first_node(self, cluster: Cluster, here: Path, undisturbed: Undisturbed) -> None:
        """The node is back before Slurm has missed it, and does not know the job any more."""
        training = Training(cluster, here, PAUSE)
        training.submit("--nodelist=n1,n2", "--nodes=2")
        reached = self.lose("n1", training)
        cluster.start("n1")
        self.goes_on(training, reached)
        assert_as_if_nothing_had_happened(training.run, undisturbed(2))

    @pytest.mark.slurm_long
    @pytest.mark.parametrize("running", [""], ids=["usual"], indirect=True)
    def test_reboot_of_another_node(self, cluster: Cluster, here: Path, undisturbed: Undisturbed) -> None:
        """Slurm does not miss its task: torchrun waits for it until `join_timeout`, and srun then until `--wait`."""
        training = Training(cluster, here, PAUSE)
        training.submit("--nodelist=n1,n2", "--nodes=2")
        reached = self.lose("n2", training)
        cluster.start("n2")
        self.goes_on(training, reached, timeout=300)
        assert_as_if_nothing_had_happened(training.run, undisturbed(2))

    @pytest.mark.slurm_long
    def test_a_killed_rank_without_torchrun(self, cluster: Cluster, here: Path, undisturbed: Undisturbed) -> None:
        training = Training(cluster, here, PAUSE)
        training.submit("--nodes=2", launch="srun")
        training.wait_for_step(2 * EVERY + 1)
        reached = training.step()
        training.kill_rank(1)
        training.pause(0)
        self.goes_on(training, reached)
        assert_as_if_nothing_had_happened(training.run, undisturbed(2))

    @staticmethod
    def lose(node: str, training: Training) -> int:
        """Cut the power of a node; returns how many steps the training had finished."""
        training.wait_for_step(2 * EVERY + 1)
        reached = training.step()
        training.cluster.crash(node)
        training.pause(0)
        return reached

    @staticmethod
    def goes_on(training: Training, reached: int, timeout: float = 120) -> None:
        """It is done by a second start that repeats no more than lies between two checkpoints."""
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
        assert_as_if_nothing_had_happened(training.run, undisturbed(2))


def rarely_saved(here: Path) -> tuple[str, ...]:
    """Settings by which the only checkpoint before the end is that of a stop."""
    return (f"run.dir={here / 'run'}", "checkpoint.every_steps=1000")
