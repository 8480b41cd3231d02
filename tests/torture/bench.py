"""Where cases run: commands as forks of one process with torch imported, each in a directory of its own."""

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Self

from dist_train.distributed.launcher import LAUNCHER_VARIABLES
from tests.conftest import ROOT, descendants_of
from tests.failing_calls import build_library
from tests.forkserver import Command, ForkServer
from tests.torture.cases import HANG, Outcome

MEMORY = 12 * 2**30
"""Bytes of address space of a command: who reads an endless file fails before the machine does."""


class Bench:
    """A scratch directory, and the process that forks; a context manager that removes and ends both."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="dist-train-torture-"))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER_VARIABLES)}
        self.environ = kept | {
            "PYTHONPATH": str(ROOT),
            "LD_PRELOAD": str(build_library(self.path)),  # does nothing without variables of its own
            "PYTHONFAULTHANDLER": "1",
            "OMP_NUM_THREADS": "1",
            "DIST_TRAIN_CORES": "1",
            "XDG_CACHE_HOME": str(self.path / "cache"),
        }
        self._lock, self._locks = threading.Lock(), defaultdict[str, threading.Lock](threading.Lock)
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if "server" in vars(self):
            self.server.close()
        subprocess.run(["chmod", "-R", "u+rwx", str(self.path)], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(self.path, ignore_errors=True)

    @cached_property
    def server(self) -> ForkServer:
        return ForkServer(self.environ, _wrap())

    def lock(self, name: str) -> threading.Lock:
        """A lock for what the cases share."""
        with self._lock:
            return self._locks[name]

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """An empty directory, which is removed afterwards."""
        with self._lock:
            self._number += 1
            path = self.path / f"case-{self._number}"
        path.mkdir()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def start(self, *arguments: object, cwd: Path, env: Mapping[str, str] | None = None) -> Command:
        """Start `-m module ...`, `-c code ...` or a script in a fork."""
        with self._lock:
            return self.server.start([str(each) for each in arguments], [{**self.environ, **(env or {})}], cwd)

    def run(
        self, *arguments: object, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = HANG
    ) -> Outcome:
        """Run a command in a fork to its end."""
        return finish(self.start(*arguments, cwd=cwd, env=env), timeout)


def _wrap() -> list[str]:
    """A wrapper that limits memory, and takes from root the right to open every file, so that modes count."""
    wrapper = ["prlimit", f"--as={MEMORY}"]
    without_rights = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    works = os.geteuid() == 0 and subprocess.run([*without_rights, "true"], check=False).returncode == 0
    return [*wrapper, *(without_rights if works else [])]


def finish(command: Command, timeout: float = HANG) -> Outcome:
    """Wait for the end of a command; one that takes longer than `timeout` seconds is ended."""
    begun, code = time.monotonic(), None
    try:
        out, errors = command.communicate(timeout)
        code = command.returncode
    except subprocess.TimeoutExpired:
        family = {command.pid, *descendants_of(command.pid)}
        for number in (signal.SIGABRT, signal.SIGKILL):  # SIGABRT prints the stacks
            for pid in family:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            time.sleep(0.5)
        out, errors = command.communicate()
    return Outcome(code, out + errors, time.monotonic() - begun, errors)
