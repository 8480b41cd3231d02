"""Tables: the rows of a CSV file, or of a table that comes with scikit-learn."""

import csv
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

import torch
from torch import Tensor

from dist_train.data.identity import TableFormat
from dist_train.data.memory import check_memory
from dist_train.data.samples import SplitName
from dist_train.data.selection import split_off
from dist_train.data.source import RowSplits
from dist_train.errors import DataError
from dist_train.settings.schema import TableData
from dist_train.system.escape import escape
from dist_train.system.plural import format_count
from dist_train.system.read_file import explain, open_regular

LARGEST = 3e38
"""No number may be larger: a network computes in floats of 32 bits."""
_NAMED = 20
"""Columns that a message lists."""


@dataclass(frozen=True)
class Table:
    """A table as it was read."""

    about: str
    """What it is called in a message."""
    columns: tuple[str, ...]
    values: Tensor
    """float64 [N, columns]."""

    def select(self, columns: Sequence[str]) -> Tensor:
        """Return the columns of these names: float64 [N, columns]."""
        return self.values[:, [self.columns.index(name) for name in columns]]


def find(config: TableData, seed: int, stored: TableFormat | None = None) -> RowSplits:
    """Read the table and hold out its test rows.

    Args:
        stored: the format of the run that the rows are for, whose columns are taken by their names.

    Raises:
        DataError: the table can't be read, or has other columns.
    """
    table = _read_diabetes() if config.file is None else read_table(Path(config.file))
    if len(table.columns) < 2:
        raise DataError(
            f"{table.about}: has the column {_list(table.columns)} only, and needs inputs and a target; separate the "
            "columns by commas"
        )
    target = stored.target if stored else config.target or table.columns[-1]
    if target not in table.columns:
        raise DataError(f"data.target is {escape(target)}, but {table.about} has the columns {_list(table.columns)}")
    columns = stored.columns if stored else tuple(name for name in table.columns if name != target)
    _check_columns(table, columns, target)
    rows = table.select((*columns, target))
    splits: dict[SplitName, Tensor] = {"train": rows}
    if config.test:
        left, held_out = split_off("test", torch.arange(len(rows)), config.test, seed)
        splits = {"train": rows[left], "test": rows[held_out]}
    return RowSplits(columns, target, splits)


def prepare_rows(path: Path, form: TableFormat) -> tuple[Tensor, Tensor | None]:
    """Read another table for a network that was trained on one of this format.

    Returns:
        Its scaled inputs, float [N, columns], and its targets, float [N]; None if it has no column of that name.

    Raises:
        DataError: the table can't be read, or has other columns.
    """
    table = read_table(path)
    _check_columns(table, form.columns, form.target)
    inputs = form.scale_inputs(table.select(form.columns))
    if form.target not in table.columns:
        return inputs, None
    return inputs, table.select((form.target,))[:, 0].to(torch.get_default_dtype())


def read_table(path: Path) -> Table:
    """Read a CSV file in UTF-8 whose first line names the columns; all cells are numbers.

    Raises:
        DataError: names the file, the line and the column of what can't be read.
    """
    about = escape(path)
    try:
        with TextIOWrapper(open_regular(path), "utf-8-sig", newline="") as file:
            check_memory(path.stat().st_size, f"data.file {about}: its numbers")
            return _parse(file, about)
    except UnicodeDecodeError as error:
        raise DataError(f"{about}: is no text in UTF-8; save the table as CSV in UTF-8") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{about}: can't be read: {explain(error)}; give the path of a CSV file") from error


def _parse(file: TextIO, about: str) -> Table:
    lines = csv.reader(file)
    values, numbers, where = array("d"), array("q"), ""
    try:
        columns = tuple(name.strip() for name in next(lines, []))
        _check_header(columns, about)
        for cells in lines:
            if cells:
                where = f"{about}, line {lines.line_num}"
                values.extend(_parse_row(cells, columns, where))
                numbers.append(lines.line_num)
    except csv.Error as error:
        raise DataError(f"{about}, line {lines.line_num}: {error}; save the table as CSV again") from error
    if not numbers:
        raise DataError(f"{about}: has names of columns and no row")
    rows = torch.tensor(values, dtype=torch.float64).view(-1, len(columns))
    for row, column in (~(rows.abs() <= LARGEST)).nonzero()[:1].tolist():
        raise DataError(
            f"{about}, line {numbers[row]}, column {escape(columns[column])}: {rows[row, column].item():g} is not "
            f"finite, or above {LARGEST:g}; correct it, or remove the row"
        )
    return Table(about, columns, rows)


def _parse_row(cells: list[str], columns: tuple[str, ...], where: str) -> list[float]:
    if len(cells) != len(columns):
        raise DataError(
            f"{where}: has {format_count(len(cells), 'cell')}, and the first line names {len(columns)} columns"
        )
    try:
        return list(map(float, cells))
    except ValueError:
        name, cell = next((name, cell) for name, cell in zip(columns, cells, strict=True) if not _is_number(cell))
    fault = f"'{escape(cell, 40)}' is no number" if cell.strip() else "the cell is empty"
    raise DataError(f"{where}, column {escape(name)}: {fault}; write numbers, or leave out the column or the row")


def _check_header(columns: tuple[str, ...], about: str) -> None:
    if not any(columns):
        raise DataError(f"{about}: is empty; its first line must name the columns")
    if all(map(_is_number, columns)):
        raise DataError(f"{about}, line 1: holds numbers; the first line must name the columns, as in rooms,price")
    for number, name in enumerate(columns, start=1):
        if not name or name in columns[: number - 1]:
            fault = "has no name" if not name else f"is called {escape(name)}, as another one"
            raise DataError(f"{about}, line 1: column {number} {fault}; give each column a name of its own")


def _is_number(cell: str) -> bool:
    try:
        return not math.isnan(float(cell))
    except ValueError:
        return False


def _check_columns(table: Table, columns: tuple[str, ...], target: str) -> None:
    """Raise DataError if the table has other inputs than these."""
    missing = [name for name in columns if name not in table.columns]
    more = [name for name in table.columns if name not in (*columns, target)]
    faults = [f"{what} {_list(names)}" for what, names in (("lacks", missing), ("also has", more)) if names]
    if faults:
        raise DataError(
            f"{table.about}: {' and '.join(faults)}; the network was trained on the columns {_list(columns)}, to "
            f"predict {escape(target)}: give it these"
        )


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(escape(name, 60) for name in names[:_NAMED]) + more


def _read_diabetes() -> Table:
    """Read 442 patients: age, sex, body mass index, blood pressure, six blood values, and the disease a year later."""
    from sklearn.datasets import load_diabetes

    found = load_diabetes(scaled=False)
    rows = torch.cat([torch.from_numpy(found.data), torch.from_numpy(found.target)[:, None]], dim=1)
    return Table("data.sklearn diabetes", (*found.feature_names, "target"), rows.to(torch.float64))
