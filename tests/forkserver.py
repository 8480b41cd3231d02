"""Commands of Python as forks of a process that has imported torch, which saves each of them that import.

`ForkServer` starts that process once. `ForkServer.start` then runs `-m module`, `-c code` or a script as a fresh
interpreter would: with its own arguments, variables, directory, standard streams and exit code. What a start itself
does is not tested this way: imports are there already, and variables that an interpreter or a library reads when it
is loaded (PYTHONHASHSEED, LD_PRELOAD) have no effect.
"""

import atexit
import faulthandler
import gc
import json
import math
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
# What most commands import; torchvision is not among it, as it imports torch's compiler, which training goes without.
PRELOADED = ("dist_train.train", "dist_train.evaluate", "dist_train.elastic.forking_agent", "launch.cli")
GRACE = 30.0  # seconds between SIGTERM and SIGKILL for the ranks that a failed one leaves behind, as torchrun has it


class ForkServer:
    """The process that forks; ends when this is closed.

    Args:
        environ: variables of the process, and of all commands that are given no others.
        wrapper: a command that starts the process, such as `setpriv ...`.
    """

    def __init__(self, environ: Mapping[str, str], wrapper: Sequence[str] = ()) -> None:
        self.environ = environ
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # OpenBLAS starts threads when numpy is imported, and a process has to fork before it has threads.
            self._process = subprocess.Popen(
                [*wrapper, sys.executable, __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                cwd=ROOT,
                env={**environ, "OPENBLAS_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self, arguments: Sequence[str], environs: Sequence[Mapping[str, str]], cwd: Path = ROOT) -> "Command":
        """Start a command once for each of `environs`, the variables of a rank; all share one stdout and stderr."""
        (out, out_end), (errors, errors_end) = os.pipe(), os.pipe()
        ranks = [self.fork(arguments, environ, out_end, errors_end, cwd) for environ in environs]
        os.close(out_end)
        os.close(errors_end)
        return Command(arguments, ranks, out, errors)

    def fork(
        self, arguments: Sequence[str], environ: Mapping[str, str], out: int, errors: int, cwd: Path = ROOT
    ) -> "Rank":
        """Start a command that prints to these two descriptors."""
        status, status_end = os.pipe()
        request = Request(list(arguments), dict(environ), str(cwd))
        socket.send_fds(self._control, [json.dumps(asdict(request)).encode()], [out, errors, status_end])
        os.close(status_end)
        return Rank(status)

    def close(self) -> None:
        self._control.close()
        self._process.kill()
        self._process.wait()


@dataclass
class Request:
    """What the server is asked to fork for; sent as JSON."""

    arguments: list[str]
    environ: dict[str, str]
    cwd: str


class Rank:
    """One fork: its process, and its exit code when it has ended."""

    def __init__(self, status: int) -> None:
        self._status = os.fdopen(status)
        self.pid = int(self._status.readline())
        self.returncode: int | None = None

    def fileno(self) -> int:
        """Readable once the process has ended."""
        return self._status.fileno()

    def poll(self) -> int | None:
        """The exit code, minus the signal where one has ended the process; None while it runs."""
        if self.returncode is None and select.select([self], [], [], 0)[0]:
            self.returncode = int(self._status.readline())
            self._status.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; returns what `poll` does.

        Raises:
            subprocess.TimeoutExpired: it has not ended in time; another call waits on.
        """
        if self.returncode is None:
            select.select([self], [], [], timeout)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or math.inf)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended since
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Command:
    """The ranks of a command, as `subprocess.Popen` has one process.

    As under torchrun, a rank that fails ends the others, and the exit code of several is 0 or 1.
    """

    def __init__(self, arguments: Sequence[str], ranks: Sequence[Rank], out: int, errors: int) -> None:
        self.args = list(arguments)
        self._ranks = ranks
        self._printed: dict[int, list[bytes]] = {out: [], errors: []}
        self._open = {out, errors}

    @property
    def pid(self) -> int:
        return self._ranks[0].pid

    @property
    def returncode(self) -> int:
        codes = [rank.poll() for rank in self._ranks]
        assert None not in codes, "not ended yet"
        return (codes[0] or 0) if len(codes) == 1 else int(any(codes))

    def communicate(self, timeout: float = math.inf) -> tuple[str, str]:
        """Wait for the end of all ranks, and of all processes that share their output; return stdout and stderr.

        Raises:
            subprocess.TimeoutExpired: they have not ended in time; another call waits on.
        """
        deadline, kill_at = time.monotonic() + timeout, math.inf
        running = {rank for rank in self._ranks if rank.poll() is None}
        while self._open or running:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout)
            if time.monotonic() > kill_at:
                self.kill()
            waited: list[int | Rank] = [*self._open, *running]
            ready = select.select(waited, [], [], 0.5)[0]
            for pipe in self._open.intersection(ready):
                self._read(pipe)
            for rank in running.intersection(ready):
                running.remove(rank)
                if rank.poll() and kill_at == math.inf:
                    kill_at = time.monotonic() + GRACE
                    self.terminate()
        out, errors = (b"".join(printed).decode(errors="replace") for printed in self._printed.values())
        return out, errors

    def _read(self, pipe: int) -> None:
        if text := os.read(pipe, 2**16):
            self._printed[pipe].append(text)
        else:
            self._open.remove(pipe)
            os.close(pipe)

    def terminate(self) -> None:
        self.send(signal.SIGTERM)

    def kill(self) -> None:
        self.send(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        for rank in self._ranks:
            rank.send_signal(number)


def _serve(control: socket.socket) -> Request | None:
    """Fork for each request; returns the request in a fork, and None in the server once the other side has closed."""
    running: dict[int, tuple[int, int]] = {}  # by the descriptor of a fork: its process, and where its code goes
    while True:
        for ready in select.select([control.fileno(), *running], [], [])[0]:
            if ready != control.fileno():
                pid, status = running.pop(ready)
                os.close(ready)
                _answer(status, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                os.close(status)
                continue
            message, descriptors, _, _ = socket.recv_fds(control, 2**20, 3)
            if not message:
                return None
            out, errors, status = descriptors
            pid = os.fork()
            if pid == 0:
                os.dup2(out, 1)
                os.dup2(errors, 2)
                for each in (*descriptors, *running, *(other for _, other in running.values())):
                    os.close(each)
                control.close()
                return Request(**json.loads(message))
            os.close(out)
            os.close(errors)
            _answer(status, pid)
            running[os.pidfd_open(pid)] = pid, status


def _answer(status: int, number: int) -> None:
    with suppress(BrokenPipeError):  # the test has not waited for it
        os.write(status, b"%d\n" % number)


def _open_streams() -> None:
    """Open the standard streams as an interpreter does; those of the server know another kind of file."""
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", 1, errors="backslashreplace", closefd=False)  # type: ignore[misc]  # noqa: SIM115


def _run(arguments: list[str], path: list[str]) -> None:
    """Do what an interpreter does with its arguments.

    Args:
        path: `sys.path` after its first entry, which depends on the arguments.
    """
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    kind, *rest = arguments
    if kind == "-m":
        sys.path[:] = [os.getcwd(), *path]  # noqa: PTH109
        sys.argv[:] = rest
        for name in (rest[0], f"{rest[0]}.__main__"):
            sys.modules.pop(name, None)  # runpy would warn that it was imported before it ran
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.path[:] = ["", *path]
        sys.argv[:] = ["-c", *rest[1:]]
        exec(rest[0], main.__dict__)  # noqa: S102
    else:
        sys.path[:] = [str(Path(kind).resolve().parent), *path]
        sys.argv[:] = arguments
        runpy.run_path(kind, run_name="__main__")


def main() -> None:
    """Import, serve, and in a fork run the command that was requested."""
    path = sys.path[1:]
    for name in PRELOADED:
        import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a fork would copy each page that has an object
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208
    assert threads == 1, f"{threads} threads; only the one that forks continues in a fork, with the locks of all"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: pytest ends, and so this
    request = _serve(socket.socket(fileno=int(sys.argv[1])))
    if request is None:
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _open_streams()
    os.chdir(request.cwd)
    os.environ.clear()
    os.environ.update(request.environ)
    if "OMP_NUM_THREADS" in os.environ:  # OpenMP has read it when torch was imported
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if "PYTHONFAULTHANDLER" in os.environ:
        faulthandler.enable(2)
    try:
        _run(request.arguments, path)
    except SystemExit as end:
        if isinstance(end.code, str):
            raise
        _leave(int(end.code or 0))
    _leave(0)


def _leave(code: int) -> None:
    """End as an interpreter does, but for freeing every object: that takes longer than most commands."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):  # the interpreter says so in its own way
        sys.exit(code)
    os._exit(code & 0xFF)


if __name__ == "__main__":
    main()
