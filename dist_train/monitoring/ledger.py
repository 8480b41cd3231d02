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
import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dist_train.errors import LedgerError
from dist_train.system.append_file import AppendFile

Line = dict[str, Any]
_BLOCK = 64
_HEXADECIMAL = re.compile(r"[0-9a-f]*")
_FIELDS = {"step", "samples", "loss", "grad_norm", "lr"}
# The phase that computes each field, in the order of a step.
PHASES = {"samples": "data", "loss": "forward", "grad_norm": "reduction", "lr": "update", "weights": "update"}


class Ledger:
    """Writes the ledger of a run in blocks, so that a step does not wait for the disk."""

    def __init__(self, path: Path, step: int) -> None:
        """Open for appending; lines after `step` are removed, because a resumed run writes them again."""
        kept = [line for line in read(path) if line["step"] <= step] if path.exists() else []
        temporary = path.with_name(f".{path.name}")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        temporary.replace(path)
        self._file = AppendFile(path)
        self._block: list[tuple[int, memoryview, float, float | None, float, str | None]] = []

    def add(
        self, step: int, samples: memoryview, loss: float, grad_norm: float | None, lr: float, weights: str | None
    ) -> None:
        """Add a step; `samples`: the int64 indices of the global batch, `loss`: the mean over it."""
        self._block.append((step, samples, loss, grad_norm, lr, weights))
        if len(self._block) >= _BLOCK:
            self.flush()

    def flush(self) -> None:
        """Write the steps added so far."""
        self._file.write("".join(_format_line(*values) for values in self._block))
        self._block.clear()

    def sync(self) -> None:
        """Make what was written survive a power cut."""
        self._file.sync()

    def close(self) -> None:
        self.flush()
        self._file.close()


def _format_line(
    step: int, samples: memoryview, loss: float, grad_norm: float | None, lr: float, weights: str | None
) -> str:
    norm = "null" if grad_norm is None else f'"{float_to_hex(grad_norm)}"'
    weights_field = "" if weights is None else f', "weights": "{weights}"'
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


def read(path: Path) -> list[Line]:
    """Return the lines of a ledger, without damaged ones, such as a line that a kill cut short.

    Raises:
        LedgerError: the file can't be read.
    """
    try:
        texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise LedgerError(
            f"{path}: can't be read: {error.strerror}. A run writes it unless log.ledger is false; give a directory "
            "below runs/"
        ) from error
    return [line for text in texts if (line := _parse_line(text)) is not None]


def _parse_line(text: str) -> Line | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and set(line) >= _FIELDS and _is_complete(line) else None


def _is_complete(line: Line) -> bool:
    texts = [line["samples"], line["loss"], line.get("weights", ""), line["grad_norm"] or ""]
    return (
        type(line["step"]) is int
        and type(line["lr"]) in (int, float)
        and all(isinstance(text, str) and _HEXADECIMAL.fullmatch(text) for text in texts)
        and all(len(text) == 16 for text in texts[:2])
        and len(texts[3]) in (0, 16)
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


def compare(first: list[Line], second: list[Line], fields: tuple[str, ...] = tuple(PHASES)) -> Comparison:
    """Compare two ledgers step by step, in the order in which a step computes its `fields`."""
    a, b = ({line["step"]: line for line in lines} for lines in (first, second))
    both = sorted(a.keys() & b.keys())
    for agreed, step in enumerate(both):
        if divergence := next(_find_differences(a, b, step, fields), None):
            return Comparison(agreed, divergence)
    return Comparison(len(both), _find_missing_step(a, b))


def _find_differences(
    a: dict[int, Line], b: dict[int, Line], step: int, fields: tuple[str, ...]
) -> Iterator[Divergence]:
    for field in fields:
        one, other = a[step].get(field), b[step].get(field)
        is_unmeasured = field in ("weights", "grad_norm") and (one is None or other is None)
        if one != other and not is_unmeasured:
            description = f"{field} {_format_value(field, one)} and {_format_value(field, other)}"
            if field == "loss" and step > 1 and not _has_weights_before(a, b, step):
                description += (
                    f"; or in the update of step {step - 1}, after which the weights were not hashed "
                    "(log.weights_every_steps=1 would show it)"
                )
            yield Divergence(step, PHASES[field], description)


def _has_weights_before(a: dict[int, Line], b: dict[int, Line], step: int) -> bool:
    return all("weights" in lines.get(step - 1, {}) for lines in (a, b))


def _format_value(field: str, found: Any) -> str:
    return f"{hex_to_float(found):.9g} ({found})" if field in ("loss", "grad_norm") else str(found)[:16]


def _find_missing_step(a: dict[int, Line], b: dict[int, Line]) -> Divergence | None:
    """Return the first step that only one of the ledgers has."""
    unmatched = sorted(a.keys() ^ b.keys())
    if not unmatched:
        return None
    owner = "first" if unmatched[0] in a else "second"
    return Divergence(unmatched[0], "", f"only the {owner} has this step ({len(a)} and {len(b)} steps)")
