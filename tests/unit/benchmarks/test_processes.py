"""Commands that are run and measured."""

import sys
import time
from pathlib import Path

import pytest

from benchmarks.processes import FailedError, run
from dist_train.system.process import read_process_stat


def test_time_memory_and_output_are_measured() -> None:
    outcome = run([sys.executable, "-c", "import time; there = b'x' * 50_000_000; print('done'); time.sleep(0.5)"])
    assert outcome.output == "done\n"
    assert outcome.seconds > 0.5
    assert 50_000_000 < outcome.largest <= outcome.memory


def test_memory_includes_child_processes() -> None:
    child = "import time; there = b'x' * 50_000_000; time.sleep(0.5)"
    parent = f"import subprocess, sys; there = b'x' * 50_000_000; subprocess.run([sys.executable, '-c', {child!r}])"
    outcome = run([sys.executable, "-c", parent])
    assert outcome.memory > 100_000_000 > outcome.largest


def test_a_failure_has_the_end_of_the_output() -> None:
    with pytest.raises(FailedError, match="exit code 3\nno such file"):
        run([sys.executable, "-c", "import sys; print('no such file'); sys.exit(3)"])


def test_a_timeout_kills_the_command_and_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    child = f"import os, time; open({str(pids)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with pytest.raises(FailedError, match="timed out after 1 s"):
        run([sys.executable, "-c", parent], timeout=1.0)
    deadline = time.monotonic() + 5
    while (found := read_process_stat(int(pids.read_text()))) and found[0] != "Z" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert found is None or found[0] == "Z"
