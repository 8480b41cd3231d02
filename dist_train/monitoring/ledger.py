"""The exact values of each step of a run, and the first step in which two runs differ.

`ledger.jsonl` has one JSON object per step:

    step       finished optimizer steps, from 1
    samples    BLAKE2b hash, 8 bytes, of the sample indices of the global batch in their order (int64)
    loss       mean loss over the global batch: the bits of a 64-bit float, in hexadecimal
    grad_norm  2-norm of all gradients before clipping, in the same form; null if not measured
    lr         learning rate
    weights    SHA-256 of the model's parameters, as in a manifest; every `log.weights_every_steps` steps and at the end
"""

import hashlib
import re
import struct
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from dist_train.errors import LedgerError
from dist_train.system.append_file import AppendFile, count_damaged, cut_lines, read_lines_backward, read_step
from dist_train.system.escape import escape
from dist_train.system.plural import format_count
from dist_train.system.read_file import open_regular, parse_object

Line = dict[str, Any]
_Step = tuple[int, memoryview, float, float | None, float, Future[str] | None]
_BLOCK = 64
_HEXADECIMAL = re.compile(r"[0-9a-f]*")
_FIELDS = {"step", "samples", "loss", "grad_norm", "lr"}
# The phase that computes each field, in the order of a step.
PHASES = {"samples": "data", "loss": "forward", "grad_norm": "reduction", "lr": "update", "weights": "update"}


class Ledger:
    """Writes the ledger of a run in blocks, so that a step does not wait for the disk."""

    def __init__(self, path: Path, step: int) -> None:
        """Open for appending; lines after `step` are removed, because a resumed run writes them again.

        Raises:
            OSError: the file can't be read or written.
        """
        self._file = AppendFile(path)

        def is_kept(text: bytes) -> bool | None:
            named = read_step(text)
            return None if named is None else named <= step

        cut_lines(path, is_kept if step else None)
        self.newest_step = find_newest_step(path)
        """The step of the last line that was kept."""
        self.damaged = count_damaged(path, _step_of)
        """Damaged lines near the end, which stay."""
        self._block: list[_Step] = []

    @property
    def missing(self) -> str | None:
        """What could not be written, and why; None if the file has everything."""
        return self._file.missing

    def add(
        self,
        step: int,
        samples: memoryview,
        loss: float,
        grad_norm: float | None,
        lr: float,
        weights: Future[str] | None,
    ) -> None:
        """Add a step.

        Args:
            samples: the int64 indices of the global batch.
            loss: the mean over it.
            weights: the hash of the weights, which another thread may still compute.
        """
        self._block.append((step, samples, loss, grad_norm, lr, weights))
        if len(self._block) >= _BLOCK and all(weights is None or weights.done() for *_, weights in self._block):
            self.flush()

    def flush(self) -> None:
        """Write the steps added so far; wait for the hashes of their weights."""
        self._file.write("".join(_format_line(*values) for values in self._block))
        self._block.clear()

    def sync(self) -> None:
        """Make what was written survive a power cut."""
        self._file.sync()

    def close(self) -> None:
        self.flush()
        self._file.close()


def _format_line(
    step: int, samples: memoryview, loss: float, grad_norm: float | None, lr: float, weights: Future[str] | None
) -> str:
    norm = "null" if grad_norm is None else f'"{float_to_hex(grad_norm)}"'
    weights_field = "" if weights is None else f', "weights": "{weights.result()}"'
    return (
        f'{{"step": {step}, "samples": "{hashlib.blake2b(samples, digest_size=8).hexdigest()}", '
        f'"loss": "{float_to_hex(loss)}", "grad_norm": {norm}, "lr": {lr!r}{weights_field}}}\n'
    )


def float_to_hex(value: float) -> str:
    """Return the 64 bits of a float as 16 hexadecimal digits."""
    return struct.pack(">d", value).hex()


def hex_to_float(text: str | None) -> float | None:
    """Return the float of 16 hexadecimal digits; None for None."""
    return None if text is None else float(struct.unpack(">d", bytes.fromhex(text))[0])


def find_newest_step(path: Path) -> int:
    """Return the step of the last line of a ledger, 0 without one; raises OSError."""
    try:
        return next((step for text in read_lines_backward(path) if (step := _step_of(text))), 0)
    except FileNotFoundError:
        return 0


def read(path: Path) -> list[Line]:
    """Return the lines of a ledger, without damaged ones, such as a line that a kill cut short.

    Raises:
        LedgerError: the file can't be read.
    """
    with open_ledger(path) as file:
        return list(_parse_lines(file))


@contextmanager
def open_ledger(path: Path) -> Iterator[BinaryIO]:
    """Open a ledger for reading; raises LedgerError if it can't be read."""
    try:
        with open_regular(path) as file:
            yield file
    except OSError as error:
        raise LedgerError(
            f"{escape(path)}: can't be read: {error.strerror}. A run writes it unless log.ledger is false; give a "
            "directory below runs/"
        ) from error


def _parse_lines(file: BinaryIO) -> Iterator[Line]:
    """Yield the lines of a ledger, without damaged ones."""
    return (line for text in file if (line := _parse_line(text)) is not None)


def _parse_line(text: bytes) -> Line | None:
    try:
        line = parse_object(text)
    except ValueError:
        return None
    return line if set(line) >= _FIELDS and _is_complete(line) else None


def _step_of(text: bytes) -> int:
    """The step of a line, 0 if it is damaged."""
    line = _parse_line(text)
    return line["step"] if line else 0


def _is_complete(line: Line) -> bool:
    texts = [line["samples"], line["loss"], line.get("weights", ""), line["grad_norm"] or ""]
    return (
        type(line["step"]) is int
        and type(line["lr"]) in (int, float)
        and all(isinstance(text, str) and _HEXADECIMAL.fullmatch(text) for text in texts)
        and all(len(text) == 16 for text in texts[:2])
        and (line["grad_norm"] is None or len(texts[3]) == 16)
    )


@dataclass(frozen=True)
class Divergence:
    """The first difference between two ledgers."""

    step: int
    phase: str
    """`data`, `forward`, `reduction` or `update`; empty if one ledger only ends before the other."""
    description: str


@dataclass(frozen=True)
class Comparison:
    """How far two ledgers agree."""

    steps: int
    """Number of steps that both have and in which they agree, before the first difference."""
    divergence: Divergence | None


def compare(first: Iterable[Line], second: Iterable[Line], fields: tuple[str, ...] = tuple(PHASES)) -> Comparison:
    """Compare two ledgers step by step, in the order in which a step computes its `fields`.

    Args:
        first, second: lines in the order of their steps, which are read once and not kept.
    """
    return _compare(first, second, fields, 0, None)


def compare_files(first: Path, second: Path) -> Comparison:
    """Compare the ledgers in two files, without holding them in memory.

    Raises:
        LedgerError: a file can't be read, or has no steps.
    """
    with open_ledger(first) as one, open_ledger(second) as other:
        for path, file in ((first, one), (second, other)):
            if next(_parse_lines(file), None) is None:
                raise LedgerError(
                    f"{escape(path)}: has no steps yet; they are written in blocks, and with each checkpoint"
                )
        agreed, last = _skip_equal_lines(one, other)
        return _compare(_parse_lines(one), _parse_lines(other), tuple(PHASES), agreed, last)


def _skip_equal_lines(one: BinaryIO, other: BinaryIO) -> tuple[int, Line | None]:
    """Read both files to the first line that differs; return the number of steps before it, and the last of them."""
    one.seek(0)
    other.seek(0)
    steps, position, last = 0, 0, b""
    for text in one:
        if text != other.readline():
            break
        position += len(text)
        if text.startswith(b'{"step": '):
            steps, last = steps + 1, text
    one.seek(position)
    other.seek(position)
    return steps, _parse_line(last)


def _compare(
    first: Iterable[Line], second: Iterable[Line], fields: tuple[str, ...], agreed: int, last: Line | None
) -> Comparison:
    """Find the first difference after the first `agreed` steps, which are equal.

    Args:
        last: the line of the last equal step.
    """
    counts, missing, before = [agreed, agreed], None, (last, last)
    for pair in _pair_steps(first, second):
        one, other = pair
        counts = [count + (line is not None) for count, line in zip(counts, pair, strict=True)]
        if one is None or other is None:
            missing = missing or pair
            continue
        if divergence := next(_find_differences(one, other, before, fields), None):
            return Comparison(agreed, divergence)
        agreed, before = agreed + 1, (one, other)
    return Comparison(agreed, _describe_missing_step(missing, counts) if missing else None)


def _pair_steps(first: Iterable[Line], second: Iterable[Line]) -> Iterator[tuple[Line | None, Line | None]]:
    """Yield the two lines of each step, None for one that has none."""
    left, right = iter(first), iter(second)
    one, other = next(left, None), next(right, None)
    while one or other:
        if other is None or (one is not None and one["step"] < other["step"]):
            yield one, None
            one = next(left, None)
        elif one is None or other["step"] < one["step"]:
            yield None, other
            other = next(right, None)
        else:
            yield one, other
            one, other = next(left, None), next(right, None)


def _find_differences(
    one: Line, other: Line, before: tuple[Line | None, Line | None], fields: tuple[str, ...]
) -> Iterator[Divergence]:
    step = one["step"]
    for field in fields:
        a, b = one.get(field), other.get(field)
        is_unmeasured = field in ("weights", "grad_norm") and (a is None or b is None)
        if a != b and not is_unmeasured:
            description = f"{field} {_format_value(field, a)} and {_format_value(field, b)}"
            if field == "loss" and step > 1 and not _have_weights(before, step - 1):
                description += (
                    f"; or in the update of step {step - 1}, after which the weights were not hashed "
                    "(log.weights_every_steps=1 would show it)"
                )
            yield Divergence(step, PHASES[field], description)


def _have_weights(lines: tuple[Line | None, Line | None], step: int) -> bool:
    return all(line is not None and line["step"] == step and "weights" in line for line in lines)


def _format_value(field: str, found: Any) -> str:
    return f"{hex_to_float(found):.9g} ({found})" if field in ("loss", "grad_norm") else str(found)[:16]


def _describe_missing_step(lines: tuple[Line | None, Line | None], counts: list[int]) -> Divergence:
    """Describe the first step that only one of the ledgers has, given the number of steps in each."""
    line, owner = (lines[0], "first") if lines[0] else (lines[1], "second")
    description = f"only the {owner} has this step ({counts[0]} and {format_count(counts[1], 'step')})"
    return Divergence(line["step"] if line else 0, "", description)
