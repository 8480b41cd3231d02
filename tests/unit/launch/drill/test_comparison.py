"""The comparison of a recovered run with the run without a fault."""

from pathlib import Path

import pytest

from dist_train.checkpoint.store import Store
from launch.drill.comparison import find_difference
from launch.drill.training_process import TrainingProcess
from tests.unit.launch.run_files import leave_ledger


class EndedProcess(TrainingProcess):
    """A training that has ended; its files are written by the test."""

    def __init__(self, directory: Path, loss: float = 1.0, lr: float = 0.1, weights: str = "a", code: int = 0) -> None:
        super().__init__("x.yaml", [], directory, 0)
        leave_ledger(directory, loss=loss, lr=lr)
        Store(self.directory.checkpoints).save(3, {"model.pt": b"", "training.pt": b""}, weights * 64)
        self.code = code

    def wait_for_exit(self) -> int:
        return self.code

    def read_output(self) -> str:
        return "out of memory"


@pytest.fixture
def reference(tmp_path: Path) -> TrainingProcess:
    return EndedProcess(tmp_path / "reference")


def test_an_equal_run_has_no_difference(tmp_path: Path, reference: TrainingProcess) -> None:
    assert find_difference(EndedProcess(tmp_path / "run"), reference, has_other_ranks=False) is None


def test_another_loss_is_a_difference_unless_the_ranks_changed(tmp_path: Path, reference: TrainingProcess) -> None:
    run = EndedProcess(tmp_path / "run", loss=2.0, weights="b")
    found = find_difference(run, reference, has_other_ranks=False)
    assert found is not None
    assert found.startswith("differs from the run without a fault at step 1 in forward: loss")
    assert find_difference(run, reference, has_other_ranks=True) is None


def test_another_learning_rate_is_a_difference_on_any_ranks(tmp_path: Path, reference: TrainingProcess) -> None:
    run = EndedProcess(tmp_path / "run", lr=0.2)
    for has_other_ranks in (False, True):
        assert "at step 1 in update" in str(find_difference(run, reference, has_other_ranks=has_other_ranks))


def test_other_weights_are_a_difference(tmp_path: Path, reference: TrainingProcess) -> None:
    found = find_difference(EndedProcess(tmp_path / "run", weights="b"), reference, has_other_ranks=False)
    assert found == f"weights {'b' * 64}, without a fault {'a' * 64}"


def test_a_run_that_was_not_recovered_is_a_difference(tmp_path: Path, reference: TrainingProcess) -> None:
    found = find_difference(EndedProcess(tmp_path / "run", code=1), reference, has_other_ranks=False)
    assert found == "ended with exit code 1 after 0 starts: out of memory"
