"""Parallel processes: their ends and output, stops, and that none of them outlives the pool."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.local.process_pool import LoggedProcess, ProcessPool
from tests.conftest import ROOT, children_of

# The pool starts processes with stop signals blocked, until they have handlers.
UNBLOCK = "import signal, time; signal.pthread_sigmask(signal.SIG_SETMASK, []); "
SLEEP = (sys.executable, "-c", f"{UNBLOCK}print('ready', flush=True); time.sleep(60)")
PARENT = """
import os, sys, time
from launch.local.process_pool import ProcessPool
with ProcessPool() as pool:
    pool.start([sys.executable, "-c", "import time; time.sleep(60)"], os.environ)
    print("started", flush=True)
    time.sleep(60)
"""


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def poll_all(pool: ProcessPool, count: int) -> list[LoggedProcess]:
    ended: list[LoggedProcess] = []
    deadline = time.monotonic() + 30
    while len(ended) < count:
        assert time.monotonic() < deadline
        ended += pool.poll()
    return ended


def test_exit_codes_and_last_lines() -> None:
    with ProcessPool() as pool:
        processes = [
            pool.start([sys.executable, "-c", f"print('a\\nb\\nc'); raise SystemExit({code})"], os.environ)
            for code in (0, 4)
        ]
        assert set(poll_all(pool, 2)) == set(processes)
        assert [process.wait() for process in processes] == [0, 4]
        assert processes[1].read_last_lines(2) == ["b", "c"]
        for process in processes:
            process.close()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system can't pin processes")
def test_a_process_is_pinned_to_its_cores() -> None:
    core = max(os.sched_getaffinity(0))
    with ProcessPool() as pool:
        pool.start([sys.executable, "-c", "import os; print(os.sched_getaffinity(0))"], os.environ, [core])
        (process,) = poll_all(pool, 1)
        assert process.read_last_lines() == [f"{{{core}}}"]
        process.close()


def test_a_stop_is_forwarded_and_a_second_interrupt_raises(capsys: pytest.CaptureFixture[str]) -> None:
    with ProcessPool() as pool:
        process = pool.start(SLEEP, os.environ)
        wait_until(process.read_last_lines)
        os.kill(os.getpid(), signal.SIGINT)
        assert poll_all(pool, 1) == [process]
        assert (pool.is_stopping, process.wait()) == (True, -signal.SIGTERM)
        assert "running trials save and exit" in capsys.readouterr().err
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            pool.poll()
        process.close()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_end_of_the_pool_kills_what_still_runs() -> None:
    with ProcessPool() as pool:
        process = pool.start(SLEEP, os.environ)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a process with its parent")
def test_no_process_outlives_a_pool_that_is_killed() -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", PARENT], env=environ, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "started\n"
        children = children_of(parent.pid)
        parent.kill()
    assert children
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
