"""Commands that the fork server starts are those that a new interpreter would have run."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import Python
from tests.forkserver import ForkServer, Rank

REPORT = """
import json, os, sys
print(json.dumps({"argv": sys.argv, "path": sys.path[:2], "name": __name__, "cwd": os.getcwd(),
                  "environ": dict(os.environ), "stdin": sys.stdin.read()}))
print("said", file=sys.stderr)
"""


@pytest.mark.parametrize("how", ["-c", "-m", "script"])
def test_a_command_finds_what_a_new_interpreter_finds(
    tmp_path: Path, python: Python, interpreter: Python, how: str
) -> None:
    (tmp_path / "report.py").write_text(REPORT)
    command = {"-c": ["-c", REPORT], "-m": ["-m", "report"], "script": [str(tmp_path / "report.py")]}[how]
    forked, real = (run(*command, "a", "--b", env={"HERE": "1"}, cwd=tmp_path) for run in (python, interpreter))
    assert (forked.returncode, forked.stderr) == (real.returncode, real.stderr) == (0, "said\n")
    assert json.loads(forked.stdout) == json.loads(real.stdout)


@pytest.mark.parametrize(
    "code",
    [
        "pass",
        "import sys; sys.exit(3)",
        "import sys; sys.exit('a message')",
        "import os; os._exit(4)",
        "import os; os.kill(os.getpid(), 9)",
        "import os; os.kill(os.getpid(), 15)",
        "raise KeyboardInterrupt",
    ],
)
def test_a_command_ends_as_in_a_new_interpreter(python: Python, interpreter: Python, code: str) -> None:
    forked, real = python("-c", code), interpreter("-c", code)
    assert forked.returncode == real.returncode
    assert forked.stderr.splitlines()[-1:] == real.stderr.splitlines()[-1:]


def test_an_exception_is_printed(python: Python) -> None:
    done = python("-c", "1 / 0")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_the_variable_of_openmp_counts(python: Python) -> None:
    code = "import torch; print(torch.get_num_threads(), (torch.ones(1 << 20) * 2).sum().item())"
    assert python("-c", code, env={"OMP_NUM_THREADS": "3"}).stdout == "3 2097152.0\n"


def test_a_fork_leaves_the_next_one_as_it_was(python: Python) -> None:
    spoil = "import os, tests.modules as m, torch; m.train.train = None; os.environ['A'] = 'b'; torch.rand(1)"
    assert python("-c", spoil).returncode == 0
    look = "import os, tests.modules as m, torch; print(m.train.train is None, 'A' in os.environ, torch.rand(1))"
    assert python("-c", look).stdout == python("-c", look).stdout
    assert python("-c", look).stdout.startswith("False False")


def test_what_is_printed_until_a_timeout_is_kept(fork_server: ForkServer, clean_environment: dict[str, str]) -> None:
    command = fork_server.start(["-c", "import time; print('begun', flush=True); time.sleep(60)"], [clean_environment])
    with pytest.raises(subprocess.TimeoutExpired):
        command.communicate(timeout=1.0)
    command.terminate()
    assert command.communicate() == ("begun\n", "")
    assert command.returncode == -signal.SIGTERM


def test_a_rank_that_fails_ends_the_others(fork_server: ForkServer, clean_environment: dict[str, str]) -> None:
    code = "import os, sys, time; sys.exit(2) if os.environ['RANK'] == '1' else time.sleep(60)"
    command = fork_server.start(["-c", code], [{**clean_environment, "RANK": str(rank)} for rank in range(3)])
    begun = time.monotonic()
    command.communicate(timeout=30)
    assert command.returncode == 1
    assert time.monotonic() - begun < 20


def test_a_signal_to_a_rank_that_has_just_ended_is_nothing() -> None:
    """The server has taken its exit code, and has not yet passed it on."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    status, status_end = os.pipe()
    os.write(status_end, b"%d\n" % ended.pid)
    rank = Rank(status)
    rank.kill()
    assert rank.poll() is None
    os.write(status_end, b"0\n")
    os.close(status_end)
    assert rank.poll() == 0


def test_the_server_ends_with_its_owner(interpreter: Python) -> None:
    """Also where the owner is killed."""
    owner = (
        "import os, sys\nfrom tests.forkserver import ForkServer\nserver = ForkServer(os.environ)\n"
        "server.start(['-c', ''], [os.environ]).communicate()\nprint(server.pid, flush=True)\nos.kill(os.getpid(), 9)"
    )
    done = interpreter("-c", owner)
    assert done.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while Path(f"/proc/{int(done.stdout)}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{int(done.stdout)}").exists()
