"""Rows of the GPU check, each written as soon as it is known. Does not import torch."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.tables import number, table

Outcome = Literal["planned", "passed", "measured", "failed", "skipped"]


@dataclass(frozen=True)
class Row:
    """The result of one check; a planned row is replaced by a later one of the same name."""

    part: str
    name: str
    outcome: Outcome
    value: float | None = None
    """The median of a measurement."""
    unit: str = ""
    low: float | None = None
    high: float | None = None
    memory: int | None = None
    """Peak bytes of torch's tensors on the GPU."""
    note: str = ""

    @property
    def key(self) -> tuple[str, str]:
        return self.part, self.name


class Sheet:
    """The rows of a part in a file, a JSON object a line, which outlives a killed part."""

    def __init__(self, path: Path, part: str) -> None:
        self.path, self._part = path, part

    def plan(self, names: Iterable[str]) -> None:
        """Add planned rows; those that are not replaced are reported as skipped or failed."""
        for name in names:
            self.add(name, "planned")

    def add(self, name: str, outcome: Outcome, **found: Any) -> None:
        """Append a row; `found`: its other fields."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(Row(self._part, name, outcome, **found))) + "\n")


def read_rows(path: Path) -> list[Row]:
    """The rows of a sheet in the order of their plan, each as it was written last."""
    texts = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [Row(**json.loads(text)) for text in texts if text.endswith("}")]  # a kill may cut the last line short
    return list({row.key: row for row in rows}.values())


def markdown(rows: Sequence[Row]) -> str:
    """All rows as one table in Markdown."""
    found = {row.key: row for row in rows}
    head = ("part", "what", "outcome", "median", "range", "of the bare step", "of plain PyTorch", "memory", "note")
    return table(head, [_cells(row, found) for row in rows])


def _cells(row: Row, found: dict[tuple[str, str], Row]) -> list[str]:
    spread = "" if row.low is None or row.high is None else f"{number(row.low)} to {number(row.high)}"
    return [
        row.part, row.name, row.outcome,
        "" if row.value is None else f"{number(row.value)} {row.unit}",
        spread, _share(row, found, "bare"), _share(row, found, "plain"),
        "" if row.memory is None else f"{row.memory / 2**20:,.0f} MiB",
        row.note.replace("|", "/").replace("\n", " "),
    ]  # fmt: skip


def _share(row: Row, found: dict[tuple[str, str], Row], who: str) -> str:
    """Our rate over that of the bare step in the same precision, or of plain PyTorch in fp32."""
    if not row.name.startswith("ours ") or row.value is None:
        return ""
    precision = row.name.split()[1] if who == "bare" else "fp32"
    other = found.get((row.part, f"{who} {precision}"))
    return f"{row.value / other.value:.2f}" if other and other.value else ""
