"""Log lines: those of rank 0 and all warnings on the terminal, and all lines of each rank in its own file."""

import io
import logging
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dist_train.distributed.world import World
from dist_train.monitoring.console import log_to_file, log_to_terminal
from dist_train.system.stop_signals import StopRequested

LOGGER = logging.getLogger("dist_train.some.module")


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger("dist_train")
    before = root.handlers, root.level, root.propagate
    root.handlers = []
    yield
    root.handlers, root.level, root.propagate = before


def log_lines() -> None:
    LOGGER.debug("too much")
    LOGGER.info("a line of %d words", 5)
    LOGGER.warning("take care")


def test_rank_0_prints_its_lines() -> None:
    stream = io.StringIO()
    log_to_terminal(World(rank=0, size=4), stream)
    log_lines()
    assert stream.getvalue() == "a line of 5 words\nwarning: take care\n"


def test_no_text_acts_on_the_terminal_or_in_the_file(tmp_path: Path) -> None:
    """Every control, format and surrogate character; a line end separates lines."""
    stream, harmful = io.StringIO(), [*map(chr, range(32)), "\x7f", "\x9b", "\u202e", "\u2028", "\udcff"]
    log_to_terminal(World(), stream)
    with log_to_file(tmp_path, World(), step=0):
        for foreign in ("".join(harmful), Path("".join(harmful)), ValueError("".join(harmful))):
            LOGGER.info("before\nafter%s", foreign)
    for text in (stream.getvalue(), (tmp_path / "rank_0.log").read_text()):
        assert [character for character in harmful if character in text] == ["\n"]
        assert text.count("after\\x00") == 3
        assert len([line for line in text.splitlines() if "x7f" in line]) == 3, "what follows the line end too"


def test_other_ranks_print_only_warnings() -> None:
    stream = io.StringIO()
    log_to_terminal(World(rank=2, size=4), stream)
    log_lines()
    assert stream.getvalue() == "warning: rank 2(4): take care\n"


def test_a_second_start_in_a_process_prints_nothing_twice() -> None:
    stream = io.StringIO()
    for _ in range(2):
        log_to_terminal(World(), stream)
    log_lines()
    assert stream.getvalue().count("take care") == 1


def levels(written: str) -> list[str]:
    return [re.sub(r"^\S+ \S+ (\w+) .*", r"\1", line) for line in written.splitlines()]


def test_the_file_has_all_lines_also_those_from_before_it(tmp_path: Path) -> None:
    log_to_terminal(World(), io.StringIO())
    log_lines()
    with log_to_file(tmp_path, World(), step=7):
        log_lines()
    log_lines()
    written = (tmp_path / "rank_0.log").read_text()
    assert levels(written) == ["INFO", "WARNING", "INFO", "INFO", "WARNING", "INFO"]
    assert f"rank 0(1) starts at step 7 on cpu: host {socket.gethostname()}, pid {os.getpid()}\n" in written
    assert written.endswith("rank 0(1) leaves: done\n")


def test_each_rank_has_a_file_and_the_terminal_shows_no_more_of_it(tmp_path: Path) -> None:
    stream, world = io.StringIO(), World(rank=2, size=4)
    log_to_terminal(world, stream)
    with log_to_file(tmp_path / "logs", world, step=0) as log:  # on another host the directory does not exist
        LOGGER.info("only for the file")
        log.outcome = "stopped by SIGTERM"
    log.close()  # as logging does once more
    log.write_line("too late")
    written = (tmp_path / "logs" / "rank_2.log").read_text()
    assert "only for the file" in written
    assert written.endswith("rank 2(4) leaves: stopped by SIGTERM\n")
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (StopRequested("the other ranks have left"), "leaves: the other ranks have left\n"),
        (ValueError("no such thing"), "ValueError: no such thing\n"),
        (KeyboardInterrupt(), "KeyboardInterrupt\n"),
    ],
)
def test_a_rank_that_ends_by_an_exception_leaves_its_traceback(
    tmp_path: Path, error: BaseException, ending: str
) -> None:
    log_to_terminal(World(rank=1, size=2), io.StringIO())
    with pytest.raises(type(error)), log_to_file(tmp_path, World(rank=1, size=2), step=0):
        raise error
    written = (tmp_path / "rank_1.log").read_text()
    assert written.endswith(ending)
    assert ("Traceback (most recent call last):" in written) == (type(error) is not StopRequested)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_without_a_log_file_continues(tmp_path: Path, rank: int) -> None:
    (tmp_path / "logs").touch()
    stream = io.StringIO()
    log_to_terminal(World(rank=rank, size=2), stream)
    with log_to_file(tmp_path / "logs", World(rank=rank, size=2), step=0):
        log_lines()
    assert f"rank_{rank}.log: can't be written: " in stream.getvalue()
