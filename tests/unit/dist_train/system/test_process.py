"""Processes that end with their parent, even if it is killed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dist_train.system.process import die_with_parent
from tests.conftest import ROOT

FAMILY = """
import os, sys, time
from dist_train.system.process import die_with_parent
parent = os.getpid()
child = os.fork()
if child == 0:
    die_with_parent(parent)
    print(os.getpid(), flush=True)
    time.sleep(60)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a process whose parent has ended")
def test_a_child_ends_with_its_killed_parent() -> None:
    command, environment = [sys.executable, "-c", FAMILY], {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert Path(f"/proc/{child}").exists()
        parent.kill()
    deadline = time.monotonic() + 10
    while is_running(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_child_whose_parent_has_gone_ends_at_once() -> None:
    with pytest.raises(SystemExit):
        die_with_parent(os.getpid())
