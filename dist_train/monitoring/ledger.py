"""The ledger of a run: the exact values of each step.

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
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from dist_train.errors import LedgerError
from dist_train.system.append_file import AppendFile, count_damaged, cut_lines, read_lines_backward, read_step
from dist_train.system.escape import escape
from dist_train.system.read_file import open_regular, parse_object

Line = dict[str, Any]
_Step = tuple[int, memoryview, float, float | None, float, Future[str] | None]
_BLOCK = 64
_HEXADECIMAL = re.compile(r"[0-9a-f]*")
_FIELDS = {"step", "samples", "loss", "grad_norm", "lr"}


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
        return list(parse_lines(file))


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


def parse_lines(file: BinaryIO) -> Iterator[Line]:
    """Yield the lines of a ledger, without damaged ones."""
    return (line for text in file if (line := parse_line(text)) is not None)


def parse_line(text: bytes) -> Line | None:
    """Parse a line of a ledger; None if it is damaged."""
    try:
        line = parse_object(text)
    except ValueError:
        return None
    return line if set(line) >= _FIELDS and _is_complete(line) else None


def _step_of(text: bytes) -> int:
    """The step of a line, 0 if it is damaged."""
    line = parse_line(text)
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
