"""Forked ranks: what can be seen of their end."""

import os
import signal
import time

import pytest

from dist_train.elastic.rank_process import _FINISHED, LEFT_EARLY, find_exit_code, is_running


@pytest.mark.parametrize(
    ("code", "number", "expected"),
    [(_FINISHED, None, 0), (0, None, LEFT_EARLY), (7, None, 7), (0, signal.SIGKILL, -signal.SIGKILL)],
)
def test_the_exit_code_of_a_child_can_be_read_again(code: int, number: signal.Signals | None, expected: int) -> None:
    child = os.fork()
    if child == 0:
        if number:
            os.kill(os.getpid(), number)
        os._exit(code)
    deadline = time.monotonic() + 10
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [find_exit_code(child), find_exit_code(child)] == [expected] * 2
    os.waitpid(child, 0)
    assert find_exit_code(child) == 1, "another call has reaped it"
