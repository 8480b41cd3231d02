"""Runs a command whose system calls on a run directory fail or kill it: tests/programs/failing_calls.c, preloaded.

with start_server(folder, environ) as server:
    calls = list_calls(server, arguments, environ, run, folder / "calls")      # what a whole run does, in order
    for at in range(1, len(calls) + 1):
        server.start(arguments, [{**environ, **Fault(at=at, with_=-signal.SIGKILL).variables(run)}])
"""

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.forkserver import ForkServer

SOURCE = Path(__file__).parent / "programs" / "failing_calls.c"


@dataclass(frozen=True)
class Fault:
    """Which calls fail, and how."""

    at: int = 0
    """Number of the first call, from 1; 0: none fails."""
    with_: int = 0
    """An errno, or minus a signal that ends the process before the call."""
    call: str = "change"
    """A kind of call, as in failing_calls.c; `change`: all that change the directory."""
    count: int = 1

    def variables(self, path: Path, log: Path | None = None) -> dict[str, str]:
        """The environment variables that let calls below `path` fail."""
        numbers = {"FAILING_AT": self.at, "FAILING_COUNT": self.count, "FAILING_WITH": self.with_}
        logged = {} if log is None else {"FAILING_LOG": str(log)}
        texts = {name: str(number) for name, number in numbers.items()}
        return {"FAILING_PATH": str(path), "FAILING_CALL": self.call, **texts, **logged}


def build_library(folder: Path) -> Path:
    """Compile failing_calls.c into `folder`; skips the test where there is no C compiler."""
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("needs a C compiler")
    library = folder / "failing_calls.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", str(SOURCE), "-o", str(library), "-ldl"], check=True)
    return library


@contextmanager
def start_server(folder: Path, environ: Mapping[str, str]) -> Iterator[ForkServer]:
    """Start a fork server whose commands obey the variables of a `Fault`; builds the library in `folder`."""
    server = ForkServer({**environ, "LD_PRELOAD": str(build_library(folder))})
    try:
        yield server
    finally:
        server.close()


def list_calls(
    server: ForkServer,
    arguments: Sequence[str],
    environ: Mapping[str, str],
    path: Path,
    log: Path,
    call: str = "change",
) -> list[tuple[str, Path]]:
    """Run a command to its end; return kind and path of each of its calls below `path`, in their order."""
    command = server.start(arguments, [{**environ, **Fault(call=call).variables(path, log)}])
    output, errors = command.communicate(timeout=120)
    assert command.returncode == 0, output + errors
    lines = [line.split(" ", 1) for line in log.read_text().splitlines()]
    return [(kind, Path(name)) for kind, name in lines]
