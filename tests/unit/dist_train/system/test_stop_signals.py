"""Stop requests: the flag, the time limit, the thread before the first step, and forks."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dist_train.system.process import die_with_parent
from dist_train.system.stop_signals import PREEMPTED, SIGNALS, Stop
from tests.conftest import Python

HEAD = "import os, signal, sys, time\nfrom dist_train.system.stop_signals import Stop\n"


@pytest.fixture
def stop() -> Iterator[Stop]:
    """One whose training has begun, so that a signal does not end this process."""
    with Stop.install() as stop:
        stop.begin_steps()
        yield stop


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


class TestTheFlag:
    @pytest.mark.parametrize("number", [number for number in SIGNALS if number != signal.SIGALRM])
    def test_a_signal_sets_the_reason(self, stop: Stop, number: signal.Signals) -> None:
        assert stop.reason is None
        send(number)
        assert stop.reason == number.name

    def test_the_first_reason_stays(self, stop: Stop) -> None:
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGTERM):
            send(number)
        assert stop.reason == "SIGUSR2"

    def test_a_second_interrupt_ends_at_once(self, stop: Stop, capfd: pytest.CaptureFixture[str]) -> None:
        send(signal.SIGINT)
        assert "a second Ctrl-C exits at once" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        assert stop.reason == "SIGINT"
        assert capfd.readouterr().err == ""

    def test_handlers_are_given_back(self) -> None:
        before = [signal.getsignal(each) for each in SIGNALS]
        with Stop.install() as stop:
            assert [signal.getsignal(each) for each in SIGNALS] != before
        assert [signal.getsignal(each) for each in SIGNALS] == before
        assert signal.set_wakeup_fd(-1) == -1
        assert "stop" not in {thread.name for thread in threading.enumerate()}
        stop.close()


IGNORED = {"SIGCHLD", "SIGCONT", "SIGURG", "SIGWINCH", "SIGPIPE", "SIGXFSZ"}
"""Without effect on a process: by the kernel, and the last two by Python, which raises OSError instead."""
PAUSES = {"SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU"}


@pytest.mark.parametrize("number", sorted(signal.valid_signals()))
def test_every_signal_stops_a_run_or_does_what_it_does_everywhere(number: int) -> None:
    """All of signal(7): stop and save, no effect, a pause, or the end by that signal."""
    try:
        name = signal.Signals(number).name
    except ValueError:  # a real-time signal
        name = f"SIGRTMIN+{number - signal.SIGRTMIN}"
    if name in PAUSES:
        return
    child = os.fork()
    if child == 0:
        signal.signal(number, signal.SIG_DFL) if name not in (*IGNORED, "SIGKILL") else None
        stop = Stop.install()
        stop.begin_steps()
        os.kill(os.getpid(), number)
        deadline = time.monotonic() + 0.05
        while stop.reason is None and time.monotonic() < deadline:
            time.sleep(0.002)
        os._exit(PREEMPTED if stop.reason else 0)
    _, status = os.waitpid(child, 0)
    expected = PREEMPTED if number in SIGNALS else 0 if name in IGNORED else -number
    assert os.waitstatus_to_exitcode(status) == expected, name


def test_nohup_keeps_a_run_from_stopping_with_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop.install() as stop:
            stop.begin_steps()
            send(signal.SIGHUP)
            assert stop.reason is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


class TestTheTimeLimit:
    def test_it_counts_from_the_start_of_the_process(self, stop: Stop) -> None:
        stop.set_time_limit(1e-6)  # this process is older
        deadline = time.monotonic() + 5
        while stop.reason is None and time.monotonic() < deadline:
            time.sleep(0.005)
        assert stop.reason == "run.time_limit_minutes"

    def test_a_limit_that_is_far_away_leaves_the_rest_of_it(self, stop: Stop) -> None:
        stop.set_time_limit(10**6)
        left, _ = signal.getitimer(signal.ITIMER_REAL)
        assert 60 * 10**6 - 10**5 < left <= 60 * 10**6
        stop.close()
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0

    def test_under_a_launcher_it_counts_from_the_launchers_start(self, interpreter: Python) -> None:
        """The child is young, the parent is not."""
        child = (
            f"{HEAD}stop = Stop.install()\nstop.set_time_limit(1)\n"
            "print(signal.getitimer(signal.ITIMER_REAL)[0])\nos._exit(0)"
        )
        parent = f"import subprocess, sys, time\ntime.sleep(1)\nsubprocess.run([sys.executable, '-c', {child!r}])"
        left = {}
        for name, environ in (("alone", {}), ("launched", {"TORCHELASTIC_RUN_ID": "x"})):
            done = interpreter("-c", parent, env=environ)
            left[name] = float(done.stdout)
        assert left["launched"] <= left["alone"] - 0.9


class TestBeforeTheFirstStep:
    def run(self, interpreter: Python, body: str, **environ: str) -> tuple[int, str, str]:
        done = interpreter("-c", HEAD + body, env=environ, timeout=30)
        return done.returncode, done.stdout, done.stderr

    def test_a_stop_ends_a_process_in_which_no_handler_can_run(self, interpreter: Python) -> None:
        """As in `init_process_group` that waits for a rank: one call of C that lets other threads run."""
        body = (
            "import ctypes, threading\nstop = Stop.install()\n"
            "stop.on_early_stop = lambda: print('told', stop.reason, flush=True)\n"
            "lib, thread = ctypes.CDLL(None), ctypes.c_ulong()\n"
            "lib.pthread_create(ctypes.byref(thread), None, lib.sleep, ctypes.c_void_p(60))\n"
            "threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()\n"
            "lib.pthread_join(thread, None)"  # a sleep would end when a signal comes
        )
        code, printed, said = self.run(interpreter, body)
        assert (code, printed) == (PREEMPTED, "told None\n")
        assert said.startswith("stopped by SIGUSR1 before the first step")

    def test_what_is_called_first_may_fail(self, interpreter: Python) -> None:
        body = "stop = Stop.install()\nstop.on_early_stop = lambda: 1 / 0\nos.kill(os.getpid(), 15)\ntime.sleep(60)"
        assert self.run(interpreter, body)[0] == PREEMPTED

    def test_a_signal_right_before_the_first_step_still_ends_the_process(self, interpreter: Python) -> None:
        body = "stop = Stop.install()\nos.kill(os.getpid(), 15)\nstop.begin_steps()\nprint('began')"
        assert self.run(interpreter, body)[:2] == (PREEMPTED, "")

    def test_a_blocked_signal_is_heard_when_the_stop_is_installed(self, interpreter: Python) -> None:
        """A launcher blocks signals before it starts a process, so that none finds it without a handler."""
        body = (
            "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\nos.kill(os.getpid(), 15)\n"
            "Stop.install()\ntime.sleep(60)"
        )
        assert self.run(interpreter, body)[0] == PREEMPTED

    def test_one_rank_of_a_machine_says_it(self, interpreter: Python) -> None:
        body = "Stop.install()\nos.kill(os.getpid(), 15)\ntime.sleep(60)"
        assert self.run(interpreter, body, LOCAL_RANK="1") == (PREEMPTED, "", "")

    def test_other_signals_are_no_stop(self, interpreter: Python) -> None:
        body = (
            "signal.signal(signal.SIGCHLD, lambda *_: None)\nstop = Stop.install()\n"
            "os.kill(os.getpid(), signal.SIGCHLD)\ntime.sleep(0.2)\nstop.begin_steps()\nprint('began')"
        )
        assert self.run(interpreter, body) == (0, "began\n", "")


class TestChildren:
    def test_a_fork_ignores_what_is_for_the_rank(self, stop: Stop) -> None:
        """Which needs it to finish its step; but a pool ends its processes by SIGTERM."""
        for last, code in ((signal.SIGHUP, 7), (signal.SIGTERM, -signal.SIGTERM)):
            child = os.fork()
            if child == 0:
                for number in SIGNALS:
                    if number != signal.SIGTERM:
                        send(number)
                send(last)
                os._exit(7 if stop.reason is None else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code
        send(signal.SIGTERM)
        assert stop.reason == "SIGTERM"

    def test_a_process_dies_with_its_parent(self, tmp_path: Path, interpreter: Python) -> None:
        """However the parent ends: nothing asks the child."""
        pid_file = tmp_path / "pid"
        child = (
            "import os, sys, time\nfrom dist_train.system.process import die_with_parent\ndie_with_parent()\n"
            "open(sys.argv[1] + '.new', 'w').write(str(os.getpid()))\n"
            "os.rename(sys.argv[1] + '.new', sys.argv[1])\ntime.sleep(60)"
        )
        parent = (
            "import os, signal, subprocess, sys, time\n"
            f"subprocess.Popen([sys.executable, '-c', {child!r}, sys.argv[1]])\n"
            "while not os.path.exists(sys.argv[1]): time.sleep(0.01)\nos.kill(os.getpid(), signal.SIGKILL)"
        )
        assert interpreter("-c", parent, str(pid_file)).returncode == -signal.SIGKILL
        deadline = time.monotonic() + 10
        while _runs(int(pid_file.read_text())) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not _runs(int(pid_file.read_text()))

    def test_a_process_whose_parent_is_gone_leaves(self) -> None:
        child = os.fork()
        if child == 0:
            try:
                die_with_parent(parent=1)
            except SystemExit as end:
                os._exit(int(str(end.code)))
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
