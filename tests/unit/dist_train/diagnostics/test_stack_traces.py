"""Stacks of a rank: written by the rank itself, and read by its peers."""

import os
from pathlib import Path

import pytest

from dist_train.diagnostics.stack_traces import (
    StackFile,
    frames_of_main,
    has_answered,
    is_waiting,
    write_process_state,
)
from tests.unit.dist_train.diagnostics.evidence import beat, leave_stacks


def test_a_rank_that_can_run_writes_the_stacks_of_its_threads(run: Path) -> None:
    directory = run / "diagnostics"
    file = StackFile(directory, beat(1, 2))
    assert not has_answered(directory, 1)
    file.dump()
    file.close()
    assert has_answered(directory, 1)
    assert __file__ in (directory / "stacks_rank_1.txt").read_text()


def test_the_frames_of_the_main_thread_come_innermost_first(run: Path) -> None:
    leave_stacks(run, 0, "/x/torch/autograd/graph.py")
    frames = frames_of_main(run / "diagnostics", 0)
    assert frames == ['  File "/x/torch/autograd/graph.py", line 3 in wait', '  File "a.py", line 1 in main']
    assert frames_of_main(run / "diagnostics", 1) == []


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("/x/torch/autograd/graph.py", True),
        ("/x/dist_train/distributed/shared_memory.py", True),
        ("/x/dist_train/train.py", False),
    ],
)
def test_a_rank_waits_for_its_peers_in_torch_and_in_shared_memory(file: str, expected: bool) -> None:
    assert is_waiting([f'  File "{file}", line 3 in wait']) is expected
    assert not is_waiting([])


def test_of_a_rank_that_cannot_run_python_the_state_of_its_process_is_written(run: Path) -> None:
    write_process_state(run / "diagnostics", beat(1, 2))
    text = (run / "diagnostics" / "stacks_rank_1.txt").read_text()
    assert f"Rank 1(2), pid {os.getpid()}, cannot run Python" in text
    assert "State:" in text
    assert not has_answered(run / "diagnostics", 1)
