"""Log lines: rank 0's on the terminal, warnings of the others with their rank, all in the file of their own rank."""

import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dist_train.console import log_to_file, log_to_terminal, stop_logging_to_file
from dist_train.world import World

ROOM = logging.getLogger("dist_train.some.room")


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger("dist_train")
    before = root.handlers, root.level, root.propagate
    root.handlers = []
    yield
    root.handlers, root.level, root.propagate = before


def say() -> None:
    ROOM.debug("too much")
    ROOM.info("a line of %d words", 5)
    ROOM.warning("take care")


def test_rank_0_speaks() -> None:
    stream = io.StringIO()
    log_to_terminal(World(rank=0, size=4), stream)
    say()
    assert stream.getvalue() == "a line of 5 words\nwarning: take care\n"


def test_other_ranks_only_warn() -> None:
    stream = io.StringIO()
    log_to_terminal(World(rank=2, size=4), stream)
    say()
    assert stream.getvalue() == "warning: rank 2(4): take care\n"


def test_a_second_start_in_a_process_says_nothing_twice() -> None:
    stream = io.StringIO()
    for _ in range(2):
        log_to_terminal(World(), stream)
    say()
    assert stream.getvalue().count("take care") == 1


def test_the_file_has_all_lines_also_those_from_before_it(tmp_path: Path) -> None:
    log_to_terminal(World(), io.StringIO())
    say()
    file = log_to_file(tmp_path)
    say()
    stop_logging_to_file(file)
    say()
    written = (tmp_path / "rank_0.log").read_text().splitlines()
    assert [re.sub(r"^\S+ \S+ (\w+) .*", r"\1", line) for line in written] == ["INFO", "WARNING"] * 2


def test_a_reader_that_has_gone_stops_the_lines_and_not_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(text)

    log_to_terminal(World(), Gone())
    file = log_to_file(tmp_path)
    say()
    stop_logging_to_file(file)
    assert len((tmp_path / "rank_0.log").read_text().splitlines()) == 2
    assert capsys.readouterr().err == ""
