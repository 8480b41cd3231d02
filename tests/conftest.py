"""What all tests share: nothing may leak from one into the next, and the ways to start commands and ranks."""

import contextlib
import gc
import itertools
import json
import logging
import os
import signal
import socket
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

from dist_train.distributed.launcher import LAUNCHER_VARIABLES
from dist_train.own_code import load as own_code
from dist_train.system.cpu import count_cores
from tests.forkserver import Command, ForkServer

ROOT = Path(__file__).resolve().parents[1]
_RESOURCE_TRACKER = b"multiprocessing.resource_tracker"  # Python keeps it for as long as the process lives

# Set by pytest, and by torch and scikit-learn when they are imported.
_NOT_OURS = ("PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK")

# A script's job in the background ignores SIGINT, and under nohup SIGHUP; what the tests start would do so too.
for _signal, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_signal) is signal.SIG_IGN:
        signal.signal(_signal, _handler)


WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
"""Processes that run tests side by side. Each, and each command, has its part of the cores: OpenMP's threads would
wait for each other's."""
if WORKERS > 1:
    torch.set_num_threads(max(1, count_cores() // WORKERS))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from tests.scheduler import Scheduler  # machines with a GPU may have no xdist

    return Scheduler(config, log)


def pytest_collection_finish() -> None:
    """Keep torch and thousands of tests out of every later collection of garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Fail a test that leaves something behind, and only that one: the next starts from what it finds."""
    environ, threads, children = _environment(), set(threading.enumerate()), _our_children()
    own_code._roots.clear()  # folders of code that an earlier test has imported as a user's
    settings, onednn = _torch_settings(), torch.backends.mkldnn.enabled
    log = logging.getLogger("dist_train")
    handlers, propagates = list(log.handlers), log.propagate
    yield
    torch.backends.mkldnn.enabled = onednn  # a training in this process chooses it, as it may
    log.handlers, log.propagate = handlers, propagates  # so does what prints its lines
    leaks = [*_leaked_variables(environ), *_leaked_settings(settings)]
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
        leaks.append("an open process group")
    _wait_until(lambda: not (_new_threads(threads) or _our_children() - children))
    leaks += [f"thread {thread.name}" for thread in _new_threads(threads)]
    leaks += [f"process {pid}: {command_of(pid)!r}" for pid in _our_children() - children]
    if leaks:
        pytest.fail("the test leaves behind: " + "; ".join(leaks))


def children_of(pid: int) -> set[int]:
    """The child processes of a process, whichever of its threads has started them."""
    found: set[int] = set()
    with contextlib.suppress(OSError):  # the process ends while its threads are listed
        for listed in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # the thread has ended
                found.update(map(int, listed.read_text().split()))
    return {child for child in found if _RESOURCE_TRACKER not in command_of(child)}


def _our_children() -> set[int]:
    """The children of this process, and of its fork server in the place of that."""
    children = children_of(os.getpid())
    servers = {child for child in children if b"forkserver.py" in command_of(child)}
    return (children - servers).union(*map(children_of, servers))


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


def weights_hash(run: Path, checkpoint: str = "latest") -> str:
    """The hash of the weights in the manifest of a run's checkpoint."""
    manifest = json.loads((run / "checkpoints" / checkpoint / "manifest.json").read_text())
    return str(manifest["weights_sha256"])


class Ranks(Protocol):
    def __call__(
        self, ranks: int, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 180
    ) -> "subprocess.CompletedProcess[str]": ...


class Python(Protocol):
    def __call__(
        self, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 180, cwd: Path = ROOT
    ) -> "subprocess.CompletedProcess[str]": ...


@pytest.fixture(scope="session")
def clean_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """This process's variables without those of a launcher, its part of the cores, and a cache of the tests."""
    launchers = (*LAUNCHER_VARIABLES, "GROUP_", "ROLE_", "TORCHELASTIC_", "OMP_NUM_THREADS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(launchers)}
    path = os.pathsep.join([str(ROOT), *filter(None, [kept.get("PYTHONPATH")])])
    threads = str(torch.get_num_threads())
    # Also of a single worker: what else the machine does must not change the bits of a test.
    cores = {"DIST_TRAIN_CORES": threads, **({"OMP_NUM_THREADS": threads} if WORKERS > 1 else {})}
    return {**kept, **cores, "PYTHONPATH": path, "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture(scope="session")
def fork_server(clean_environment: dict[str, str]) -> Iterator[ForkServer]:
    server = ForkServer(clean_environment)
    yield server
    server.close()


@pytest.fixture(scope="session")
def python(fork_server: ForkServer, clean_environment: dict[str, str]) -> Python:
    """Run a script, `-m module` or `-c code` in a process that has torch imported; by default from the root."""

    def run(
        *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 180, cwd: Path = ROOT
    ) -> "subprocess.CompletedProcess[str]":
        return _completed(fork_server.start(arguments, [{**clean_environment, **(env or {})}], cwd), timeout)

    return run


@pytest.fixture(scope="session")
def on_ranks(fork_server: ForkServer, clean_environment: dict[str, str], worker_id: str) -> Ranks:
    """Run a command on ranks as torchrun would, in processes that have torch imported."""
    ports = itertools.count(20000 + 1000 * int(worker_id.removeprefix("gw") if worker_id != "master" else 0))

    def run(
        ranks: int, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 180
    ) -> "subprocess.CompletedProcess[str]":
        variables = {"OMP_NUM_THREADS": "1", **clean_environment, **(env or {}), "MASTER_ADDR": "127.0.0.1"}
        variables |= {"MASTER_PORT": str(next(filter(_is_free, ports)))}
        variables |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(ranks))
        environs = [variables | dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)) for rank in range(ranks)]
        return _completed(fork_server.start(arguments, environs), timeout)

    return run


@pytest.fixture(scope="session")
def interpreter(clean_environment: dict[str, str]) -> Python:
    """As `python`, but in a new interpreter, for tests of a start and of what it imports."""

    def run(
        *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 180, cwd: Path = ROOT
    ) -> "subprocess.CompletedProcess[str]":
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=cwd,
            env={**clean_environment, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return _completed(process, timeout)

    return run


@pytest.fixture(scope="session")
def torchrun(interpreter: Python) -> Ranks:
    """As `on_ranks`, but under a real torchrun, whose own exit code is returned."""

    def run(
        ranks: int, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 180
    ) -> "subprocess.CompletedProcess[str]":
        launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}")
        return interpreter(*launcher, *arguments, env=env, timeout=timeout)

    return run


def _is_free(port: int) -> bool:
    with socket.socket() as listening, contextlib.suppress(OSError):
        listening.bind(("127.0.0.1", port))
        return True
    return False


def _completed(process: "subprocess.Popen[str] | Command", timeout: float) -> "subprocess.CompletedProcess[str]":
    """Wait for the end; a process that takes longer than `timeout` seconds is ended, and fails the test."""
    try:
        output, errors = process.communicate(timeout=timeout)
    except BaseException as error:
        output, errors = _end(process)
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        pytest.fail(f"{process.args!r} ran over {timeout} s\n{output}\n{errors}")
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def _end(process: "subprocess.Popen[str] | Command") -> tuple[str, str]:
    """End a process with all that it has started; torchrun's workers lead sessions of their own."""
    family = descendants_of(process.pid)
    process.terminate()
    try:
        output, errors = process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        family |= descendants_of(process.pid)
        process.kill()
        _kill(family)
        return process.communicate()
    _kill(family)
    return output, errors


def descendants_of(pid: int) -> set[int]:
    children = children_of(pid)
    return children.union(*(descendants_of(child) for child in children))


def _kill(pids: set[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
