"""What follows from the exit codes of ranks: a restart, or the exit code of the run."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dist_train.elastic.forking_agent import ForkingAgent, _order_by_cause
from dist_train.elastic.rank_process import FAILS_AGAIN, FORWARDED
from dist_train.system.exit import FAILED, INTERRUPTED
from dist_train.system.stop_signals import PREEMPTED, SIGNALS

RESTARTS = 3


class AgentWithoutRanks(ForkingAgent):
    """An agent that has not forked its two ranks; the signals that it would send are in `sent`."""

    def __init__(self) -> None:
        super().__init__(2, RESTARTS, ("x.yaml",), Path("no-run"))
        self.sent: list[signal.Signals] = []

    def _send(self, number: signal.Signals) -> None:
        self.sent.append(number)


@pytest.fixture
def agent() -> Iterator[AgentWithoutRanks]:
    handlers = {number: signal.getsignal(number) for number in FORWARDED}
    yield AgentWithoutRanks()
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("code", [2, 4, PREEMPTED, INTERRUPTED, FAILS_AGAIN])
def test_a_rank_that_no_restart_helps_ends_the_run_with_its_code(
    agent: AgentWithoutRanks, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    agent._handle_exit(1, code)
    assert (agent.exit_code, agent._remaining_restarts) == (FAILED if code == FAILS_AGAIN else code, 0)
    assert capsys.readouterr().err == "", "the rank has said why"


def test_a_rank_that_was_preempted_alone_makes_the_others_save(agent: AgentWithoutRanks) -> None:
    agent._handle_exit(1, PREEMPTED)
    assert agent.sent == [signal.SIGTERM]


@pytest.mark.parametrize(
    ("code", "words"), [(FAILED, "failed with exit code 1"), (-signal.SIGKILL, "was killed by SIGKILL")]
)
def test_a_lost_rank_is_reported_and_leaves_the_restarts(
    agent: AgentWithoutRanks, capsys: pytest.CaptureFixture[str], code: int, words: str
) -> None:
    agent._handle_exit(1, code)
    assert (agent.exit_code, agent._remaining_restarts) == (FAILED, RESTARTS)
    printed = capsys.readouterr().err
    assert printed.startswith(f"rank 1(2) {words} at ")
    assert printed.endswith("; restart 1 of 3 from the newest checkpoint\n")


def test_a_rank_that_is_lost_after_a_stop_is_not_restarted(agent: AgentWithoutRanks) -> None:
    agent._forward_signal(signal.SIGTERM, None)
    agent._handle_exit(1, -signal.SIGKILL)
    assert (agent.exit_code, agent._remaining_restarts) == (FAILED, 0)


def test_ranks_that_end_after_a_second_ctrl_c_were_interrupted(
    agent: AgentWithoutRanks, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        agent._forward_signal(signal.SIGINT, None)
    agent._handle_exit(1, -signal.SIGKILL)
    assert agent.exit_code == INTERRUPTED
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("received", "sent"),
    [(signal.SIGQUIT, signal.SIGTERM), *((number, number) for number in SIGNALS if number != signal.SIGALRM)],
)
def test_a_signal_waits_until_there_are_ranks(
    agent: AgentWithoutRanks, received: signal.Signals, sent: signal.Signals
) -> None:
    agent._forward_signal(received, None)
    assert agent._pending == [sent]
    agent._has_ranks = True
    agent._forward_signal(received, None)
    assert agent.sent == [sent]


def test_the_cause_comes_before_its_consequences() -> None:
    assert sorted([FAILED, -signal.SIGKILL, PREEMPTED], key=_order_by_cause) == [PREEMPTED, -signal.SIGKILL, FAILED]
