"""What all tests share: nothing may leak from one into the next, and ranks are started by a real torchrun."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch
import torch.distributed as dist
from tqdm import TMonitor

from dist_train.distributed.world import LAUNCHER_VARIABLES

ROOT = Path(__file__).resolve().parents[1]
_RESOURCE_TRACKER = b"multiprocessing.resource_tracker"  # Python keeps it for as long as the process lives

# Set by pytest, and by torch and scikit-learn when they are imported.
_NOT_OURS = ("PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK")

# A script's job in the background ignores SIGINT, and under nohup SIGHUP; what the tests start would do so too.
for _signal, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_signal) is signal.SIG_IGN:
        signal.signal(_signal, _handler)


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Fail a test that leaves something behind, and only that one: the next starts from what it finds."""
    environ, threads, children = _environment(), set(threading.enumerate()), children_of(os.getpid())
    settings = _torch_settings()
    yield
    leaks = [*_leaked_variables(environ), *_leaked_settings(settings)]
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
        leaks.append("an open process group")
    _wait_until(lambda: not (_new_threads(threads) or children_of(os.getpid()) - children))
    leaks += [f"thread {thread.name}" for thread in _new_threads(threads)]
    leaks += [f"process {pid}: {command_of(pid)!r}" for pid in children_of(os.getpid()) - children]
    if leaks:
        pytest.fail("the test leaves behind: " + "; ".join(leaks))


def children_of(pid: int) -> set[int]:
    """The child processes of a process, whichever of its threads has started them."""
    found: set[int] = set()
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found.update(map(int, listed.read_text().split()))
        except OSError:  # the thread has ended
            continue
    return {child for child in found if _RESOURCE_TRACKER not in command_of(child)}


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return b""


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _NOT_OURS}


def _leaked_variables(before: dict[str, str]) -> list[str]:
    now = _environment()
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    for name in changed:
        os.environ.pop(name)
        if name in before:
            os.environ[name] = before[name]
    return [f"environment variable {name}" for name in changed]


def _torch_settings() -> dict[str, Any]:
    return {
        "default dtype": torch.get_default_dtype(),
        "deterministic mode": torch.are_deterministic_algorithms_enabled(),
        "number of threads": torch.get_num_threads(),
    }


def _leaked_settings(before: dict[str, Any]) -> list[str]:
    now = _torch_settings()
    torch.set_default_dtype(before["default dtype"])
    torch.use_deterministic_algorithms(before["deterministic mode"])
    torch.set_num_threads(before["number of threads"])
    return [f"torch's {name}, {now[name]}" for name in now if now[name] != before[name]]


def _new_threads(before: set[threading.Thread]) -> list[threading.Thread]:
    now = [thread for thread in threading.enumerate() if thread not in before]
    return [thread for thread in now if not isinstance(thread, TMonitor)]  # tqdm keeps one for all bars


def _wait_until(condition: Any, seconds: float = 3.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


class Torchrun(Protocol):
    def __call__(
        self, ranks: int, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 180
    ) -> "subprocess.CompletedProcess[str]": ...


class Python(Protocol):
    def __call__(
        self, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 180, cwd: Path = ROOT
    ) -> "subprocess.CompletedProcess[str]": ...


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Python:
    """Run a script or `-m module` in a process of its own.

    By default from the root of the repository. It has this process's variables without those of a launcher, and a
    cache that belongs to the tests.
    """
    launchers = (*LAUNCHER_VARIABLES, "GROUP_", "ROLE_", "TORCHELASTIC_", "OMP_NUM_THREADS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(launchers)}
    path = os.pathsep.join([str(ROOT), *filter(None, [kept.get("PYTHONPATH")])])
    clean = {**kept, "PYTHONPATH": path, "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}

    def run(
        *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 180, cwd: Path = ROOT
    ) -> "subprocess.CompletedProcess[str]":
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=cwd,
            env={**clean, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            output, errors = process.communicate(timeout=timeout)
        except BaseException as error:
            output, errors = _end(process)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            pytest.fail(f"python {' '.join(arguments)} ran over {timeout} s\n{output}\n{errors}")
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    return run


@pytest.fixture(scope="session")
def torchrun(python: Python) -> Torchrun:
    """Run a script or `-m module` on ranks under a real torchrun, from the root of the repository."""

    def run(
        ranks: int, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 180
    ) -> "subprocess.CompletedProcess[str]":
        launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}")
        return python(*launcher, *arguments, env=env, timeout=timeout)

    return run


def _end(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """End a process with all that it has started; torchrun's workers lead sessions of their own."""
    family = _descendants(process.pid)
    process.terminate()
    try:
        output, errors = process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        family |= _descendants(process.pid)
        process.kill()
        _kill(family)
        return process.communicate()
    _kill(family)
    return output, errors


def _descendants(pid: int) -> set[int]:
    children = children_of(pid)
    return children.union(*(_descendants(child) for child in children))


def _kill(pids: set[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
