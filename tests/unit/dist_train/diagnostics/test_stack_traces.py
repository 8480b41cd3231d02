"""Stacks of a rank: written by the rank itself, and read by its peers."""

import os
import signal
from pathlib import Path

import pytest

from dist_train.diagnostics.stack_traces import (
    StackFile,
    has_dumped_stacks,
    is_waiting_for_peers,
    read_crash,
    read_main_frames,
    write_process_state,
)
from dist_train.distributed import shared_memory
from tests.conftest import Python
from tests.unit.dist_train.diagnostics.run_files import heartbeat, write_stacks


def test_a_rank_that_can_run_writes_the_stacks_of_its_threads(run: Path) -> None:
    directory = run / "diagnostics"
    file = StackFile(directory, heartbeat(1, 2))
    assert not has_dumped_stacks(directory, 1)
    file.dump()
    file.close()
    assert has_dumped_stacks(directory, 1)
    assert __file__ in (directory / "stacks_rank_1.txt").read_text()


CRASH = """
import ctypes, os, sys, time
from pathlib import Path
from dist_train.diagnostics.stack_traces import record_crash
from dist_train.system.inherited_state import prepare_streams

prepare_streams()  # as every training does
with record_crash(Path(sys.argv[1]), 1):
    {crash}
"""
IN_A_THREAD_OF_C = "c = ctypes.CDLL(None); c.pthread_create(ctypes.byref(ctypes.c_ulong()), None, c.abort, None)"


@pytest.mark.parametrize(
    ("crash", "reason", "outside_python"),
    [
        (f"{IN_A_THREAD_OF_C}; time.sleep(20)", "Aborted", True),  # as NCCL's watchdog aborts a rank
        ("os.abort()", "Aborted", False),
        *[
            (f"os.kill(os.getpid(), {number:d})", reason, False)
            for number, reason in (
                (signal.SIGSEGV, "Segmentation fault"),
                (signal.SIGFPE, "Floating point exception"),  # newer Pythons: Floating-point exception
                (signal.SIGBUS, "Bus error"),
                (signal.SIGILL, "Illegal instruction"),
                (signal.SIGABRT, "Aborted"),
            )
        ],
        ("os.kill(os.getpid(), 9)", None, False),
    ],
)
def test_a_crash_is_recognised(
    interpreter: Python, tmp_path: Path, crash: str, reason: str | None, outside_python: bool
) -> None:
    done = interpreter("-c", CRASH.format(crash=crash), str(tmp_path), timeout=60)
    assert done.returncode < 0
    found = read_crash(tmp_path, 1)
    assert (found and found.reason.replace("-", " ")) == reason
    if found:
        assert found.was_abort_outside_python is outside_python
        assert bool(found.frames) is not outside_python
    assert read_crash(tmp_path, 0) is None, "it has left no file"


def test_after_the_block_a_crash_goes_to_standard_error_again(interpreter: Python, tmp_path: Path) -> None:
    done = interpreter("-c", CRASH.format(crash="pass") + "os.abort()", str(tmp_path), timeout=60)
    assert done.stderr.startswith("Fatal Python error: Aborted")
    assert read_crash(tmp_path, 1) is None


def test_the_frames_of_the_main_thread_come_innermost_first(run: Path) -> None:
    write_stacks(run, 0, "/x/torch/autograd/graph.py")
    frames = read_main_frames(run / "diagnostics", 0)
    assert frames == ['  File "/x/torch/autograd/graph.py", line 3 in wait', '  File "a.py", line 1 in main']
    assert read_main_frames(run / "diagnostics", 1) == []


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("/x/torch/autograd/graph.py", True),
        (shared_memory.__file__, True),
        ("/x/dist_train/train.py", False),
    ],
)
def test_a_rank_waits_for_its_peers_in_torch_and_in_shared_memory(file: str, expected: bool) -> None:
    assert is_waiting_for_peers([f'  File "{file}", line 3 in wait']) is expected
    assert not is_waiting_for_peers([])


def test_of_a_rank_that_cannot_run_python_the_state_of_its_process_is_written(run: Path) -> None:
    write_process_state(run / "diagnostics", heartbeat(1, 2))
    text = (run / "diagnostics" / "stacks_rank_1.txt").read_text()
    assert f"Rank 1(2), pid {os.getpid()}, cannot run Python" in text
    assert "State:" in text
    assert not has_dumped_stacks(run / "diagnostics", 1)
