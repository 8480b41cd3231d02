"""Find the first step and phase in which two runs differ, by their ledgers."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from dist_train.errors import LedgerError
from dist_train.monitoring.ledger import Line, hex_to_float, open_ledger, parse_line, parse_lines
from dist_train.system.escape import escape
from dist_train.system.plural import format_count

PHASES = {"samples": "data", "loss": "forward", "grad_norm": "reduction", "lr": "update", "weights": "update"}
"""The phase that computes each field, in the order of a step."""


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
            if next(parse_lines(file), None) is None:
                raise LedgerError(
                    f"{escape(path)}: has no steps yet; they are written in blocks, and with each checkpoint"
                )
        agreed, last = _skip_equal_lines(one, other)
        return _compare(parse_lines(one), parse_lines(other), tuple(PHASES), agreed, last)


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
    return steps, parse_line(last)


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
