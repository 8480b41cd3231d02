"""`dist-train train` with several ranks: how they start, are restarted and stopped, and the exit code of the run."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dist_train.system.stop_signals import PREEMPTED
from tests.conftest import ROOT, Python, children_of, command_of

SMALL = """
data: {name: synthetic, num_train: 64, num_test: 16, global_batch: 16}
model: {name: mnist_cnn}
optim: {name: sgd, lr: 0.05}
train: {max_steps: 6}
checkpoint: {every_steps: 2}
eval: {every_epochs: 0}
log: {every_steps: 1, tensorboard: false}
distributed: {backend: gloo, threads: 1}
"""
ENDLESS = ("train.max_steps=1000000", "checkpoint.every_steps=5")
# Ranks of the agent that run the body of a test instead of training; `here` is the directory of the test.
RANKS = """
import os, signal, sys, time
from pathlib import Path
from dist_train.elastic import agent, forking_agent, rank_process
from dist_train.system.exit import leave, run_guarded
here = Path(sys.argv[1])
forking_agent.PATIENCE = 0.5
def body(arguments, stop):
    rank, attempt = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    (here / f"{attempt}.{rank}").write_text(str(os.getpid()))
    while len(list(here.glob(f"{attempt}.*"))) < 2: time.sleep(0.005)
    return what(rank, attempt, stop) or 0
rank_process.train_main = body
def what(rank, attempt, stop):
"""
# A signal in the middle of the forks, delivered to a thread that does not block it, such as one of torch's store.
IN_THE_FORKS = """
import threading
thread = threading.Thread(target=time.sleep, args=(60,), daemon=True)
thread.start()
fork, left = forking_agent.LocalElasticAgent._start_workers, [{attempt}]
def start_workers(self, group):
    pids = fork(self, group)
    if left.pop() == 0:
        signal.pthread_kill(thread.ident, signal.{name})
        time.sleep(0.5)  # the thread receives it, then this one runs the handler
    left.append(0)
    return pids
forking_agent.LocalElasticAgent._start_workers = start_workers
"""


@pytest.fixture
def ranks(tmp_path: Path, python: Python) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run the agent on two ranks that execute `body` instead of training; `before` is executed first, in the agent."""

    def run(body: str, restarts: int = 0, before: str = "") -> "subprocess.CompletedProcess[str]":
        (tmp_path / "x.yaml").write_text(SMALL)
        lines = "\n".join(f"    {line}" for line in body.splitlines())
        options = ["--nproc", "2", "--max-restarts", str(restarts), str(tmp_path / "x.yaml")]
        end = f"leave(run_guarded(lambda: agent.main({options!r})))"
        return python("-c", f"{RANKS}{lines}\n{before}{end}", str(tmp_path), timeout=60)

    return run


class Run:
    """A started `dist-train train` of two ranks that train in `directory`."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        (directory / "small.yaml").write_text(SMALL)
        self.directory = directory / "run"
        self._errors = directory / "errors"
        command = [sys.executable, "-m", "launch", "train", str(directory / "small.yaml"), "--nproc", "2"]
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                [*command, f"run.dir={self.directory}", *arguments],
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )

    def steps(self) -> int:
        """Number of lines of metrics, one per step."""
        metrics = self.directory / "metrics.jsonl"
        return len(metrics.read_text().splitlines()) if metrics.exists() else 0

    def wait_for(self, condition: Callable[[], object], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.errors()
            assert time.monotonic() < deadline, f"still not after {seconds} s; {self.errors()}"
            time.sleep(0.01)

    def errors(self) -> str:
        return self._errors.read_text()

    def ranks(self) -> set[int]:
        """The pids of the forked ranks, without other programs that an import may start."""
        return {child for child in children_of(self.process.pid) if b"dist_train.elastic.agent" in command_of(child)}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    started: list[Run] = []

    def run(*arguments: str) -> Run:
        started.append(Run(tmp_path, *arguments))
        return started[-1]

    yield run
    for each in started:
        each.process.kill()
        each.process.wait()


class TestExitCodes:
    """The exit code of the run is that of the rank that ended it."""

    pytestmark = pytest.mark.slow

    @pytest.mark.parametrize(
        ("body", "code"),
        [
            ("return 0", 0),
            ("return 2 if rank else time.sleep(30)", 2),
        ],
    )
    def test_an_end_on_purpose_is_final(
        self, ranks: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path, body: str, code: int
    ) -> None:
        done = ranks(body, restarts=3)
        assert (done.returncode, done.stderr) == (code, "")
        assert not (tmp_path / "1.0").exists()

    def test_a_preempted_rank_waits_for_the_others_to_save(
        self, ranks: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path
    ) -> None:
        body = (
            "stop.begin_steps()\nif rank: return 75\nwhile stop.reason is None: time.sleep(0.01)\ntime.sleep(1)\n"
            "(here / 'saved').touch()\nreturn 75"
        )
        done = ranks(body, restarts=3)
        assert (done.returncode, done.stderr) == (PREEMPTED, "")
        assert (tmp_path / "saved").exists()

    def test_ranks_that_fail_again_are_restarted_as_often_as_allowed(
        self, ranks: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path
    ) -> None:
        done = ranks("return 1 if rank else time.sleep(30)", restarts=2)
        assert done.returncode == 1
        lines, _, screen = done.stderr.partition("\n---- x: the run failed ----\n")
        assert [line.split(" at ")[0] for line in lines.splitlines()] == ["rank 1(2) failed with exit code 1"] * 3
        assert [line.split("; ")[1] for line in lines.splitlines()] == [
            "restart 1 of 2 from the newest checkpoint",
            "restart 2 of 2 from the newest checkpoint",
            "the run ends",
        ]
        assert screen.startswith("first failed   rank 1(2) on host ")
        assert (tmp_path / "2.0").exists()

    def test_a_killed_rank_is_replaced_and_the_run_done(
        self, ranks: Callable[..., "subprocess.CompletedProcess[str]"]
    ) -> None:
        body = "if rank == 0 and attempt == 0: os.kill(os.getpid(), 9)\ntime.sleep(0 if attempt else 30)"
        done = ranks(body, restarts=1)
        assert done.returncode == 0
        assert done.stderr.startswith("rank 0(2) was killed by SIGKILL at ")
        assert done.stderr.endswith("; restart 1 of 1 from the newest checkpoint\n")

    def test_a_traceback_is_printed_once_before_the_screen(
        self, ranks: Callable[..., "subprocess.CompletedProcess[str]"]
    ) -> None:
        done = ranks("if rank: raise ZeroDivisionError('on purpose')\ntime.sleep(30)")
        assert done.returncode == 1
        assert done.stderr.startswith("Traceback")
        *_, error, report = done.stderr.partition("\n---- x: the run failed ----\n")[0].splitlines()
        assert error == "ZeroDivisionError: on purpose"
        assert report.startswith("rank 1(2) failed with exit code 1 at ")


@pytest.mark.slow
class TestARun:
    def test_it_trains_and_a_second_start_has_nothing_left(self, start: Callable[..., Run]) -> None:
        for _ in range(2):
            run = start()
            assert run.process.wait(60) == 0, run.errors()
            assert run.errors() == ""
        assert json.loads((run.directory / "status.json").read_text())["state"] == "done"
        assert run.steps() == 6 + 1  # and the evaluation

    def test_a_killed_rank_brings_the_group_back(self, start: Callable[..., Run]) -> None:
        run = start("--max-restarts", "2", *ENDLESS)
        for number in (1, 2):
            run.wait_for(lambda: (run.directory / "checkpoints" / "latest").exists())
            before = run.ranks()
            os.kill(max(before) if number == 1 else min(before), signal.SIGKILL)
            run.wait_for(lambda: len(run.ranks() - before) == 2)  # noqa: B023
            steps = run.steps()
            run.wait_for(lambda: run.steps() > steps + 10)  # noqa: B023
            assert f"restart {number} of 2" in run.errors()
        assert not before & run.ranks()

    def test_a_restart_resumes_a_run_that_was_begun_with_resume_never(self, start: Callable[..., Run]) -> None:
        assert start().process.wait(60) == 0
        run = start("--max-restarts", "1", "run.resume=never", *ENDLESS)
        aside = run.directory.with_name("run.old-1")
        run.wait_for(lambda: aside.exists() and (run.directory / "checkpoints" / "latest").exists())
        os.kill(max(run.ranks()), signal.SIGKILL)
        run.wait_for(lambda: json.loads((run.directory / "status.json").read_text())["restarts"] == 1)
        assert json.loads((run.directory / "status.json").read_text())["started_step"] > 0
        assert json.loads((aside / "status.json").read_text())["state"] == "done"
        assert not run.directory.with_name("run.old-2").exists()

    def test_no_rank_outlives_its_agent(self, start: Callable[..., Run]) -> None:
        run = start(*ENDLESS)
        run.wait_for(lambda: run.steps() > 2)
        ranks = run.ranks()
        assert len(ranks) == 2
        run.process.kill()
        run.process.wait()
        deadline = time.monotonic() + 10
        while any(Path(f"/proc/{rank}").exists() for rank in ranks) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert [rank for rank in ranks if Path(f"/proc/{rank}").exists()] == []

    def test_nothing_listens_beyond_loopback(self, start: Callable[..., Run]) -> None:
        run = start("--max-restarts", "1", *ENDLESS)
        run.wait_for(lambda: run.steps() > 2)
        addresses = [address for pid in (run.process.pid, *run.ranks()) for address in listening(pid)]
        assert addresses, "the agent's store listens somewhere"
        assert set(addresses) == {"0100007F"}  # 127.0.0.1, in the order of the bytes of this machine

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
    def test_a_signal_that_comes_while_everything_starts_means_preempted(
        self, start: Callable[..., Run], number: signal.Signals
    ) -> None:
        run = start("--max-restarts", "3", *ENDLESS)
        run.wait_for(lambda: len(run.ranks()) == 2)  # a program that an import starts looks like one for a moment
        os.kill(run.process.pid, number)
        assert run.process.wait(60) == PREEMPTED, run.errors()
        assert "Traceback" not in run.errors()

    def test_a_signal_that_comes_before_there_are_ranks_is_called_by_its_name(self, start: Callable[..., Run]) -> None:
        run = start(*ENDLESS)
        run.wait_for(lambda: b"dist_train.elastic.agent" in command_of(run.process.pid))
        os.kill(run.process.pid, signal.SIGINT)
        assert run.process.wait(60) == PREEMPTED, run.errors()
        assert run.errors() == "stopped by SIGINT before the first step; the same command resumes the run\n"

    @pytest.mark.parametrize(("attempt", "name"), [(0, "SIGINT"), (1, "SIGTERM")])
    def test_a_signal_that_comes_while_ranks_are_forked_reaches_them(
        self, ranks: Callable[..., "subprocess.CompletedProcess[str]"], attempt: int, name: str
    ) -> None:
        body = f"if rank and attempt < {attempt}: os.kill(os.getpid(), 9)\ntime.sleep(20)"
        done = ranks(body, restarts=3, before=IN_THE_FORKS.format(attempt=attempt, name=name))
        assert done.returncode == PREEMPTED, done.stderr
        assert done.stderr.endswith(f"stopped by {name} before the first step; the same command resumes the run\n")

    def test_a_signal_that_only_lost_ranks_have_received_reaches_the_next(
        self, ranks: Callable[..., "subprocess.CompletedProcess[str]"]
    ) -> None:
        done = ranks(
            "if attempt: time.sleep(20)\nif rank: os.kill(os.getpid(), 9)\n"
            "stop.begin_steps()\ntime.sleep(0.5)\nos.kill(os.getppid(), signal.SIGTERM)\ntime.sleep(20)",
            restarts=3,
        )
        assert done.returncode == PREEMPTED, done.stderr
        assert done.stderr.endswith("stopped by SIGTERM before the first step; the same command resumes the run\n")

    def test_two_interrupts_are_no_failure(self, start: Callable[..., Run]) -> None:
        slow = ("data.num_train=4096", "data.global_batch=4096", "train.micro_batch=4")  # about a second a step
        run = start("--max-restarts", "3", *ENDLESS, *slow)
        run.wait_for(lambda: run.steps() > 2)
        os.kill(run.process.pid, signal.SIGINT)
        run.wait_for(lambda: "a second Ctrl-C exits at once" in run.errors())
        os.kill(run.process.pid, signal.SIGINT)
        assert run.process.wait(60) == 130, run.errors()
        failures = [json.loads(file.read_text()) for file in (run.directory / "diagnostics").glob("failure_rank_*")]
        assert {failure["kind"] for failure in failures} == {"interrupted"}
        assert "Traceback" not in run.errors()
        assert not list((run.directory / "diagnostics").glob("verdict_*"))

    @pytest.mark.parametrize("hears", [True, False])
    def test_a_second_interrupt_ends_ranks_that_do_not_leave(
        self, ranks: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path, *, hears: bool
    ) -> None:
        interrupt = threading.Thread(target=interrupt_twice, args=(tmp_path,))
        interrupt.start()
        deafness = "if stop.reason: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])"
        done = ranks(
            "stop.begin_steps()\n(here / f'parent.{rank}').write_text(str(os.getppid()))\n"
            f"while True:\n    time.sleep(0.01)\n    {'' if hears else deafness}\n"
            "    if stop.reason: (here / 'heard').touch()",
            restarts=3,
        )
        interrupt.join()
        assert done.returncode == 130
        assert "restart" not in done.stderr


def interrupt_twice(directory: Path) -> None:
    """Send SIGINT to the agent twice, the second time when a rank has received the first."""
    deadline = time.monotonic() + 30
    for file in ("parent.1", "heard"):
        while not (directory / file).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        os.kill(int((directory / "parent.1").read_text()), signal.SIGINT)


def listening(pid: int) -> Iterator[str]:
    """Local addresses, in hexadecimal, of the listening TCP sockets that a process holds."""
    held = {str(file.readlink()) for file in Path(f"/proc/{pid}/fd").iterdir() if file.is_symlink()}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in held:
                yield local.split(":")[0]
