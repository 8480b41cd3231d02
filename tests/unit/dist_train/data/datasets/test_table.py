"""Tables: what is read, and what is refused with file, line and column."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dist_train.data.datasets.table import find, prepare_rows, read_table
from dist_train.data.identity import TableFormat
from dist_train.errors import DataError
from dist_train.settings.schema import TableData

FORM = TableFormat(("rooms", "age"), "price", (1.0, 10.0), (2.0, 5.0))
GOOD = "rooms,age,price\n3,20,1.5\n5,10,2.5\n"


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "houses.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def configure(path: Path, **settings: Any) -> TableData:
    return TableData(name="table", file=str(path), **settings)


BAD = {
    "no text": ("", ": is empty; its first line must name the columns"),
    "empty lines": ("\n\n", ": is empty"),
    "names only": ("rooms,age,price\n", ": has names of columns and no row"),
    "no names": ("3,20,1.5\n5,10,2.5\n", ", line 1: holds numbers; the first line must name the columns"),
    "a name twice": ("age,age,price\n1,2,3\n", ", line 1: column 2 is called age, as another one"),
    "a column without a name": ("rooms,,price\n1,2,3\n", ", line 1: column 2 has no name"),
    "text": (GOOD + "4,old,1\n", ", line 4, column age: 'old' is no number; write numbers, or leave out"),
    "text after a text of two lines": (
        'rooms,age,price\n"1\n",2,3\n4,old,1\n',
        ", line 4, column age: 'old' is no number",
    ),
    "a comma for a point": ('rooms,age,price\n"1,5",2,3\n', ", line 2, column rooms: '1,5' is no number"),
    "an empty cell": (GOOD + "4,,1\n", ", line 4, column age: the cell is empty"),
    "a cell of spaces": (GOOD + "4, ,1\n", ", line 4, column age: the cell is empty"),
    "too few cells": (GOOD + "4,1\n", ", line 4: has 2 cells, and the first line names 3 columns"),
    "too many cells": (GOOD + "4,1,2,3\n", ", line 4: has 4 cells"),
    "not a number": (GOOD + "4,nan,1\n", ", line 4, column age: nan is not finite, or above 3e+38"),
    "infinity": (GOOD + "\n4,1,-inf\n", ", line 5, column price: -inf is not finite"),
    "beyond 32 bits": (GOOD + "1e39,1,1\n", ", line 4, column rooms: 1e+39 is not finite, or above 3e+38"),
    "one column": ("price\n1\n2\n", ": has the column price only, and needs inputs and a target"),
    "semicolons": ("a;b\n1;2\n", ", line 2, column a;b: '1;2' is no number"),
    "not UTF-8": (b"gr\xf6\xdfe,price\n1,2\n", ": is no text in UTF-8"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0\0", ": is no text in UTF-8"),
    "a NUL": ("rooms,price\n1,\0\n", ", line 2, column price: '\\x00' is no number"),
    "a huge cell": ("rooms,price\n1," + "9" * 200_000 + "\n", "field larger than field limit"),
    "a hostile name": ("\x1b[31m,price\n1,x\n", ", line 2, column price: 'x' is no number"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_a_bad_table_is_refused_by_place(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(DataError) as caught:
        find(configure(path), seed=0)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Path.exists, "No such file or directory"),
        (Path.mkdir, "Is a directory"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    ],
    ids=["missing", "folder", "device", "loop"],
)  # fmt: skip
def test_what_is_no_file_is_refused(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path / "houses.csv")
    with pytest.raises(DataError, match=f"houses.csv: can't be read: {message}; give the path of a CSV file"):
        read_table(tmp_path / "houses.csv")


def test_a_target_that_is_not_there_is_refused_with_the_columns(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.target is cost, but .*houses.csv has the columns rooms, age, price"):
        find(configure(write(tmp_path, GOOD), target="cost"), seed=0)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("rooms,price\n1,2\n", "lacks age"),
        ("rooms,age,price,garden\n1,2,3,4\n", "also has garden"),
        ("a,b,c\n1,2,3\n", "lacks rooms, age and also has a, b, c"),
    ],
)
def test_other_columns_than_in_training_are_refused(tmp_path: Path, content: str, fault: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(
        DataError, match=rf"{fault}; the network was trained on the columns rooms, age, to predict price"
    ):
        prepare_rows(path, FORM)
    with pytest.raises(DataError, match=r"trained on the columns|data.target is price, but"):
        find(configure(path), 0, FORM)


def test_what_spreadsheets_write_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, '\ufeff"rooms", age ,price\r\n3, 20,1.5e0\r\n\r\n"5",10,-2\r\n')
    table = read_table(path)
    assert table.columns == ("rooms", "age", "price")
    assert table.values.tolist() == [[3.0, 20.0, 1.5], [5.0, 10.0, -2.0]]


def test_the_columns_of_another_table_are_found_by_name(tmp_path: Path) -> None:
    inputs, targets = prepare_rows(write(tmp_path, "price,age,rooms\n7,20,3\n8,10,5\n"), FORM)
    assert inputs.tolist() == [[1.0, 2.0], [2.0, 0.0]]
    assert targets is not None
    assert targets.tolist() == [7.0, 8.0]
    inputs, targets = prepare_rows(write(tmp_path, "age,rooms\n20,3\n"), FORM)
    assert (inputs.tolist(), targets) == ([[1.0, 2.0]], None)


def test_test_rows_are_held_out_by_the_seed(tmp_path: Path) -> None:
    path = write(tmp_path, "x,y\n" + "".join(f"{number},{2 * number}\n" for number in range(50)))
    found = find(configure(path, target="x"), seed=3)
    assert (found.columns, found.target) == (("y",), "x")
    train, test = found.splits["train"], found.splits["test"]
    assert (len(train), len(test)) == (40, 10)
    assert sorted(torch.cat([train, test])[:, 1].tolist()) == list(range(50))
    assert not torch.equal(find(configure(path, target="x"), seed=4).splits["test"], test)
    assert set(find(configure(path, test=0.0), seed=3).splits) == {"train"}
    with pytest.raises(
        DataError, match=r"data.test is 0.999: of 50 training samples that holds out 50 and leaves none"
    ):
        find(configure(path, test=0.999), seed=3)


def test_the_diabetes_data_are_there() -> None:
    found = find(TableData(name="table", sklearn="diabetes"), seed=0)
    assert found.columns == ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")
    assert [len(rows) for rows in found.splits.values()] == [354, 88]
