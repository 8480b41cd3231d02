"""Runs that are killed and stopped anywhere, again and again, end like undisturbed runs."""

import json
import os
import platform
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from dist_train.diagnostics.heartbeat import PHASES
from dist_train.system.cpu import count_cores
from dist_train.system.stop_signals import PREEMPTED
from tests.forkserver import ForkServer
from tests.ranks.failures.killed import (
    EVERY_RANK,
    LAUNCHER,
    STEPS,
    Kill,
    Run,
    Schedule,
    Start,
    Tally,
    assert_checkpoints_are_undamaged,
    assert_every_sample_once,
    assert_same_bits,
    assert_same_course,
    newest,
)

RESULTS = "DIST_TRAIN_RESULTS"
"""Variable that names the file which the long tests write their result to."""
KILLS, STOPS = 200, 100
ELASTIC, BITWISE = (1, 2, 3, 4), (1, 2, 4)
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
# A plan that fails is not made smaller: each takes some ten seconds, and none hits the same moment twice.
PROFILE = settings(
    deadline=None, database=None, print_blob=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
QUICK = settings(PROFILE, max_examples=4, derandomize=True)  # some kills come when the run is over
LONG = settings(PROFILE, max_examples=200)


class Runs:
    """A directory for runs, and the undisturbed ones among them."""

    def __init__(self, directory: Path, server: ForkServer) -> None:
        self.server = server
        self._directory, self._number = directory, 0
        self.reference = cache(self._reference)

    def new(self) -> Path:
        self._number += 1
        return self._directory / f"run-{self._number}"

    def _reference(self, mode: str, ranks: int) -> Path:
        path = self._directory / f"{mode}-{ranks}"
        with Run(path, self.server, mode, Start(ranks)) as run:
            assert run.end() == 0, run.errors()
        assert_every_sample_once(path)
        return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, fork_server: ForkServer) -> Runs:
    return Runs(tmp_path_factory.mktemp("kills"), fork_server)


def plans(elastic: tuple[int, ...], bitwise: tuple[int, ...]) -> st.SearchStrategy[Schedule]:
    """Runs with these numbers of ranks: `elastic` ones that never change it among them."""
    constant = st.sampled_from(elastic).flatmap(lambda ranks: _plan("elastic", st.just(ranks)))
    return st.one_of(_plan("bitwise", st.sampled_from(bitwise)), constant, _plan("elastic", st.sampled_from(elastic)))


def _plan(mode: str, ranks: st.SearchStrategy[int]) -> st.SearchStrategy[Schedule]:
    kill = st.builds(
        Kill,
        when=st.sampled_from(["step", "save", "start", "step", "save", "end"]),
        after=st.integers(0, 20),
        phase=st.sampled_from(PHASES[1:]),
        whom=st.integers(0, 7) | st.sampled_from([EVERY_RANK, LAUNCHER]),
    )
    kills = st.lists(kill, min_size=1, max_size=3).map(up_to_the_launcher)
    killed = st.lists(st.builds(Start, ranks=ranks, kills=kills), min_size=2, max_size=3)
    return st.builds(lambda starts, last: Schedule(mode, (*starts, Start(last))), killed, ranks)


def up_to_the_launcher(kills: list[Kill]) -> tuple[Kill, ...]:
    whom = [kill.whom for kill in kills]
    return tuple(kills[: whom.index(LAUNCHER) + 1] if LAUNCHER in whom else kills)


def carry_out(plan: Schedule, runs: Runs, tally: Tally) -> None:
    """Kill as planned, let the last start end, and hold the run against an undisturbed one."""
    path = runs.new()
    for start in plan.starts:
        before = newest(path)
        with Run(path, runs.server, plan.mode, start) as run:
            hits = [run.suffer(kill, tally) for kill in start.kills if run.process.poll() is None]
            code = run.end()
            assert code == _expected(start, hits), run.errors()
            assert run.failed() == 0, run.errors()
        tally.add(f"{plan.mode} start of", f"{start.ranks} rank(s)")
        assert_checkpoints_are_undamaged(path, before)
    assert_every_sample_once(path)
    assert_same_course(path, runs.reference(plan.mode, 1))
    if plan.has_the_bits_of:
        assert_same_bits(path, runs.reference(plan.mode, plan.has_the_bits_of))
    tally.add("run ended with", "the same bits" if plan.has_the_bits_of else "the same samples")


def _expected(start: Start, hits: list[bool]) -> int:
    """The exit code: a run that was over before a kill is done."""
    if not start.kills or hits.count(True) < len(start.kills):
        return 0
    is_alone = start.ranks == 1 and len(start.kills) == 1
    return -signal.SIGKILL if is_alone or start.kills[-1].whom == LAUNCHER else 1


def kill_often(runs: Runs, profile: settings, drawn: st.SearchStrategy[Schedule], enough: int, tally: Tally) -> None:
    """Carry out plan after plan, until there were `enough` kills."""

    @profile
    @given(drawn)
    def nothing_is_lost(plan: Schedule) -> None:
        if tally["kill of"] < enough:
            carry_out(plan, runs, tally)

    nothing_is_lost()
    assert tally["kill of"] >= enough


@pytest.mark.slow
def test_killed_runs_end_like_undisturbed_ones(runs: Runs) -> None:
    kill_often(runs, QUICK, plans(ELASTIC, BITWISE), 3, Tally())


@pytest.mark.slow
def test_stopped_runs_can_go_on(runs: Runs) -> None:
    stop_often(runs, 3, Tally())


def stop_often(runs: Runs, times: int, tally: Tally) -> None:
    """Stop run after run; each continues until it is done, and is then held against an undisturbed one."""
    draw, path = random.Random(times), runs.new()  # noqa: S311
    for _ in range(times):
        if stop_once(path, runs, draw, tally) == 0:
            _assert_undisturbed(path, runs, tally)
            path = runs.new()
    if path.exists():
        _finish(path, runs, tally)


def _finish(path: Path, runs: Runs, tally: Tally) -> None:
    with Run(path, runs.server, "bitwise", Start(1)) as run:
        assert run.end() == 0, run.errors()
    _assert_undisturbed(path, runs, tally)


def _assert_undisturbed(path: Path, runs: Runs, tally: Tally) -> None:
    reference = runs.reference("bitwise", 1)
    assert_every_sample_once(path)
    assert_same_course(path, reference)
    assert_same_bits(path, reference)
    tally.add("run ended with", "the same bits")


def stop_once(path: Path, runs: Runs, draw: random.Random, tally: Tally) -> int:
    """Start, send a signal at a random moment after the start has written its status, and judge what is left."""
    number, pause, start = draw.choice(STOPPING), draw.uniform(0, 0.7), Start(draw.choice(BITWISE))
    attempt = _status(path).get("attempt", 0)
    with Run(path, runs.server, "bitwise", start) as run:
        assert run.wait_for(lambda: _status(path).get("attempt", 0) > attempt), run.errors()
        time.sleep(pause)
        before = newest(path)
        run.process.send_signal(number)
        code = run.end()
        assert code in (0, PREEMPTED), f"{number.name} after {pause} s: exit code {code}\n{run.errors()}"
    assert_checkpoints_are_undamaged(path, before)
    status = _status(path)
    assert (status["state"], status["step"]) == ("preempted" if code else "done", newest(path))
    for subject, kind in (("signal", number.name), ("exit code", str(code)), ("start of", f"{start.ranks} rank(s)")):
        tally.add(subject, kind)
    return code


def _status(path: Path) -> dict[str, Any]:
    file = path / "status.json"
    return json.loads(file.read_text()) if file.exists() else {}


@pytest.fixture(scope="module")
def results() -> Iterator[list[str]]:
    """Sections of what the long tests have found, for the file that the environment names."""
    sections: list[str] = []
    yield sections
    if sections and RESULTS in os.environ:
        head = (
            f"# Runs that were killed and stopped\n\n{date.today().isoformat()}, `pytest -m long "
            "tests/ranks/failures/test_kills.py`: "
            f"torch {torch.__version__}, Python {platform.python_version()}, {platform.system()} "
            f"{platform.machine()}, {count_cores()} cores.\n\nA run has {STEPS} steps, with dropout, augmentation, "
            "momentum and a moving average. After each start every checkpoint was verified, and none was gone or in "
            "quarantine; at the end the ledger had each step once with the samples that the seed says, and where the "
            "mode promises the same bits, loss, gradient norm and weights of each step equalled an undisturbed run.\n"
        )
        Path(os.environ[RESULTS]).write_text("\n".join([head, *sections]))


@contextmanager
def section(results: list[str], title: str) -> Iterator[Tally]:
    """Count, and add to the results whether all held."""
    tally, outcome, begun = Tally(), "FAILED", time.monotonic()
    try:
        yield tally
        outcome = "all held"
    finally:
        table = ["| what | which | times |", "|---|---|---|", *tally.rows()]
        minutes = (time.monotonic() - begun) / 60
        results.append(f"## {title}: {outcome}, in {minutes:.0f} minutes\n\n" + "\n".join(table) + "\n")


@pytest.mark.long
def test_many_killed_runs_end_like_undisturbed_ones(runs: Runs, results: list[str]) -> None:
    with section(results, f"{KILLS} kills") as tally:
        kill_often(runs, LONG, plans(ELASTIC, (*BITWISE, 8)), KILLS, tally)


@pytest.mark.long
def test_many_stopped_runs_can_go_on(runs: Runs, results: list[str]) -> None:
    with section(results, f"{STOPS} stops") as tally:
        stop_often(runs, STOPS, tally)
