"""What a run did at each step, bit by bit, and where two runs part.

`ledger.jsonl` has one JSON object a step:

    step       finished optimizer steps, from 1
    samples    BLAKE2b, 8 bytes, of the numbers of the global batch's samples in their order (int64)
    loss       bits of the mean loss over the global batch, as a 64-bit float, in hexadecimal
    grad_norm  bits of the 2-norm of the gradients over all weights before they are clipped, likewise; null: unmeasured
    lr         learning rate
    weights    every `log.weights_every_steps` steps and after the last: SHA-256 of the weights, as in a manifest
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
from dist_train.system.append_file import Lines

Line = dict[str, Any]
_BLOCK = 64
_HEXADECIMAL = re.compile(r"[0-9a-f]*")
_FIELDS = {"step", "samples", "loss", "grad_norm", "lr"}
# What differs first, in the order in which a step computes it.
PHASES = {"samples": "data", "loss": "forward", "grad_norm": "reduction", "lr": "update", "weights": "update"}


class Ledger:
    """The file while it is written: in blocks, because a step must wait for nothing."""

    def __init__(self, path: Path, step: int) -> None:
        """Open for appending after cutting the lines beyond `step`, which a resumed run is about to make again."""
        kept = [line for line in read(path) if line["step"] <= step] if path.exists() else []
        aside = path.with_name(f".{path.name}")
        aside.write_text("".join(json.dumps(line) + "\n" for line in kept))
        aside.replace(path)
        self._file = Lines(path)
        self._block: list[tuple[int, memoryview, float, float | None, float, str | None]] = []

    def add(
        self, step: int, samples: memoryview, loss: float, grad_norm: float | None, lr: float, weights: str | None
    ) -> None:
        """Note a step; `samples`: the int64 numbers of the global batch, `loss`: the mean over it."""
        self._block.append((step, samples, loss, grad_norm, lr, weights))
        if len(self._block) >= _BLOCK:
            self.flush()

    def flush(self) -> None:
        """Hand what was added to the system; lines are made here, where the processor's caches are warm for them."""
        self._file.write("".join(_text(*noted) for noted in self._block))
        self._block.clear()

    def sync(self) -> None:
        """Make what was handed over survive a power cut."""
        self._file.sync()

    def close(self) -> None:
        self.flush()
        self._file.close()


def _text(step: int, samples: memoryview, loss: float, grad_norm: float | None, lr: float, weights: str | None) -> str:
    norm = "null" if grad_norm is None else f'"{float_to_hex(grad_norm)}"'
    hashed = "" if weights is None else f', "weights": "{weights}"'
    return (
        f'{{"step": {step}, "samples": "{hashlib.blake2b(samples, digest_size=8).hexdigest()}", '
        f'"loss": "{float_to_hex(loss)}", "grad_norm": {norm}, "lr": {lr!r}{hashed}}}\n'
    )


def float_to_hex(value: float) -> str:
    """The 64 bits of a float as 16 hexadecimal digits."""
    return struct.pack(">d", value).hex()


def hex_to_float(text: str | None) -> float | None:
    """The float of these bits."""
    return None if text is None else float(struct.unpack(">d", bytes.fromhex(text))[0])


def read(path: Path) -> list[Line]:
    """The lines of a ledger, without what a kill has cut short.

    Raises:
        LedgerError: there is no such file.
    """
    try:
        texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise LedgerError(
            f"{path}: can't be read: {error.strerror}. A run writes it unless log.ledger is false; give a directory "
            "below runs/"
        ) from error
    return [line for text in texts if (line := _line(text)) is not None]


def _line(text: str) -> Line | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and set(line) >= _FIELDS and _is_whole(line) else None


def _is_whole(line: Line) -> bool:
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
    """Where two ledgers part first."""

    step: int
    phase: str
    """`data`, `forward`, `reduction` or `update`; empty where one of them only ends before the other."""
    what: str
    """In words."""


@dataclass(frozen=True)
class Comparison:
    steps: int
    """Steps that both have and in which they agree, up to the first in which they don't."""
    divergence: Divergence | None


def compare(first: list[Line], second: list[Line], fields: tuple[str, ...] = tuple(PHASES)) -> Comparison:
    """Compare two ledgers step by step, in the order in which a step computes its `fields`."""
    a, b = ({line["step"]: line for line in lines} for lines in (first, second))
    both = sorted(a.keys() & b.keys())
    for agreed, step in enumerate(both):
        if parting := next(_partings(a, b, step, fields), None):
            return Comparison(agreed, parting)
    return Comparison(len(both), _missing(a, b))


def _partings(a: dict[int, Line], b: dict[int, Line], step: int, fields: tuple[str, ...]) -> Iterator[Divergence]:
    for field in fields:
        one, other = a[step].get(field), b[step].get(field)
        unmeasured = field in ("weights", "grad_norm") and (one is None or other is None)
        if one != other and not unmeasured:
            what = f"{field} {_shown(field, one)} and {_shown(field, other)}"
            if field == "loss" and step > 1 and not _same_weights_before(a, b, step):
                what += (
                    f"; or in the update of step {step - 1}, after which the weights were not hashed "
                    "(log.weights_every_steps=1 would tell)"
                )
            yield Divergence(step, PHASES[field], what)


def _same_weights_before(a: dict[int, Line], b: dict[int, Line], step: int) -> bool:
    return all("weights" in lines.get(step - 1, {}) for lines in (a, b))


def _shown(field: str, found: Any) -> str:
    return f"{hex_to_float(found):.9g} ({found})" if field in ("loss", "grad_norm") else str(found)[:16]


def _missing(a: dict[int, Line], b: dict[int, Line]) -> Divergence | None:
    """The first step that only one of them has."""
    alone = sorted(a.keys() ^ b.keys())
    if not alone:
        return None
    owner = "first" if alone[0] in a else "second"
    return Divergence(alone[0], "", f"only the {owner} has this step ({len(a)} and {len(b)} steps)")
