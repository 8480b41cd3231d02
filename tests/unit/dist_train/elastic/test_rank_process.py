"""Forked ranks: what can be seen of their end."""

import os
import signal
import time

import pytest

from dist_train.elastic.rank_process import (
    _CERTAIN,
    _FINISHED,
    FAILS_AGAIN,
    LEFT_EARLY,
    find_exit_code,
    is_running,
    run_rank,
)
from dist_train.errors import ConfigError, OwnCodeError, OwnImportError
from dist_train.system.exit import FAILED


@pytest.mark.parametrize(
    ("code", "number", "expected"),
    [
        (_FINISHED, None, 0),
        (0, None, LEFT_EARLY),
        (_CERTAIN, None, FAILS_AGAIN),
        (7, None, 7),
        (0, signal.SIGKILL, -signal.SIGKILL),
    ],
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


@pytest.mark.parametrize(
    ("error", "expected"),
    [(OwnImportError("x"), FAILS_AGAIN), (OwnCodeError("x"), FAILED), (OSError("x"), FAILED), (ConfigError("x"), 2)],
)
def test_the_code_of_a_rank_says_whether_it_would_fail_again(
    monkeypatch: pytest.MonkeyPatch, error: Exception, expected: int
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr("dist_train.elastic.rank_process.train_main", fail)
    child = os.fork()
    if child == 0:
        run_rank(os.getppid(), ("x.yaml",))
    while is_running(child):
        time.sleep(0.01)
    assert find_exit_code(child) == expected
    os.waitpid(child, 0)
