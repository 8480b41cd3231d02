"""A case, what a command has done in it, and which of that is a fault."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.torture.bench import Bench

HANG = 30.0
"""Seconds that a command may take."""
KINDS = {
    "traceback": "tracebacks",
    "crash": "crashes",
    "hang": "hangs",
    "exit code": "wrong exit codes",
    "message": "messages that are missing or unsafe",
    "loss": "losses",
    "signal": "signals to others",
    "false claim": "false claims",
}
"""Each kind of fault, and its plural."""
_TRACEBACK = re.compile(r"^Traceback \(most recent call last\)|^Exception ignored |^Fatal Python error", re.MULTILINE)
# A tab, a newline and the carriage return of a progress bar are ours. Bidirectional marks can reverse what is read.
_UNSAFE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_FORGED = re.compile(r"^FORGED", re.MULTILINE)  # the start of a line that mutations.HOSTILE holds
_LAST_LINES = 25


@dataclass(frozen=True)
class Fault:
    """What a command has done wrong; `kind` is one of KINDS."""

    kind: str
    text: str

    @property
    def signature(self) -> str:
        """What it has in common with faults of the same cause: the place of a traceback, or a text without numbers."""
        places = re.findall(r'File "[^"]*/((?:dist_train|launch)/[^"]+)", line (\d+)', self.text)
        lines = self.text.splitlines()
        last = re.sub(r"'[^']*'|\S*/\S*|[0-9]+", "_", lines[-1] if places else lines[0])
        return f"{self.kind}: {last[:120]}{f' at {places[-1][0]}:{places[-1][1]}' if places else ''}"


@dataclass(frozen=True)
class Case:
    """One damaged input under one command; `name` is unique in its generator."""

    name: str
    run: Callable[["Bench"], Iterable[Fault]]


@dataclass(frozen=True)
class Outcome:
    """What a command has printed, and its exit code: minus a signal where one has ended it, None after a hang."""

    code: int | None
    output: str
    """Standard output, and then standard error."""
    seconds: float = 0.0
    errors: str = ""
    """Standard error alone."""

    @property
    def tail(self) -> str:
        return f"exit code {self.code}\n" + "\n".join(self.output.splitlines()[-_LAST_LINES:])


def judge(
    outcome: Outcome, codes: Collection[int], names: Collection[str | Path] = (), is_copy: bool = False
) -> Iterator[Fault]:
    """Yield the faults of any command.

    Args:
        codes: exit codes that are right here.
        names: words one of which a message of exit code 2 has to have, such as the file.
        is_copy: standard output is a copy of a file that others write, such as a log: its lines are not the command's.
    """
    ours = outcome.errors if is_copy else outcome.output
    if outcome.code is None:
        yield Fault("hang", f"more than {HANG:.0f} s\n{outcome.tail}")
    elif outcome.code < 0:
        yield Fault("crash", f"ended by signal {-outcome.code}\n{outcome.tail}")
    elif _TRACEBACK.search(ours):
        yield Fault("traceback", outcome.tail)
    elif outcome.code not in codes:
        yield Fault("exit code", f"exit code {outcome.code} is not one of {sorted(codes)}\n{outcome.tail}")
    elif outcome.code != 0 and not outcome.output.strip():
        yield Fault("message", f"exit code {outcome.code} without a message")
    elif outcome.code == 2 and names and not any(str(name) in outcome.output for name in names):
        yield Fault("message", f"names none of {', '.join(map(str, names))}\n{outcome.tail}")
    if unsafe := _UNSAFE.search(outcome.output):
        yield Fault("message", f"prints the control character {unsafe[0]!r} raw\n{outcome.tail!r}")
    elif _FORGED.search(ours):
        yield Fault("message", f"prints a line that is not ours\n{outcome.tail}")
