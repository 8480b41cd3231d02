"""Predict picture files: threads decode them while the network computes, a batch at a time."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dist_train.data.datasets.listing import PassedOver, list_names
from dist_train.data.datasets.picture import ENDINGS
from dist_train.errors import DataError
from dist_train.nest import Nest
from dist_train.system.cpu import count_cores
from dist_train.system.escape import escape
from dist_train.system.read_file import explain, open_regular
from dist_train.tasks.answers import Answer, AnswerReader

AHEAD = 2
"""Batches that are decoded ahead of the network."""
TOGETHER = 16
"""Pictures that a thread decodes at a time: to hand over one alone takes as long as to decode a small one."""


@dataclass(frozen=True)
class PictureNetwork:
    """A network that takes pictures, with its own preprocessing."""

    read: Callable[[str], Tensor]
    """Returns the picture of a file; all have one shape. Raises DataError."""
    compute: Callable[[Tensor], Nest]
    """Returns the output for a batch of what `read` has returned."""
    answers: AnswerReader
    batch: int
    """Pictures that are computed at once."""


def list_files(paths: Iterable[str]) -> list[str | DataError]:
    """Return the files named, and those that a training finds in folders; a folder without any is a DataError."""
    found: list[str | DataError] = []
    for path in paths:
        if not path:  # else the working directory
            found.append(DataError("'': is an empty name; is a variable of the shell not set?"))
            continue
        if not Path(path).is_dir():
            found.append(path)
            continue
        passed = PassedOver()
        try:
            files = list_names(Path(path), ENDINGS, frozenset(), passed)
        except OSError as error:
            found.append(DataError(f"{escape(error.filename)}: can't be listed: {explain(error)}"))
            continue
        others = f", but {passed}" if str(passed) else ""
        found += files or [DataError(f"{escape(path)}: holds no picture ({', '.join(ENDINGS)}){others}; name another")]
    return found


def predict_files(
    files: Sequence[str | DataError], network: PictureNetwork, most: int | None
) -> Iterator[tuple[str, Answer] | DataError]:
    """Yield each file with its answer, in order, or why it can't be read.

    Args:
        files: what `list_files` returns.
        most: guesses of a picture; None: all classes.
    """
    batches = (files[start : start + network.batch] for start in range(0, len(files), network.batch))
    with ThreadPoolExecutor(count_cores()) as pool:
        waiting: deque[list[Future[list[_Read]]]] = deque()
        for batch in batches:
            parts = (batch[start : start + TOGETHER] for start in range(0, len(batch), TOGETHER))
            waiting.append([pool.submit(_read_all, part, network.read) for part in parts])
            if len(waiting) > AHEAD:
                yield from _answer(waiting.popleft(), network, most)
        for left in waiting:
            yield from _answer(left, network, most)


_Read = tuple[str, Tensor] | DataError


def _read_all(files: Sequence[str | DataError], read: Callable[[str], Tensor]) -> list[_Read]:
    return [file if isinstance(file, DataError) else _read(file, read) for file in files]


def _read(file: str, read: Callable[[str], Tensor]) -> _Read:
    try:
        open_regular(Path(file)).close()  # a named pipe would never end
        return file, read(file)
    except OSError as error:
        return DataError(f"{escape(file)}: can't be read: {explain(error)}")
    except DataError as error:
        return error


def _answer(
    parts: list[Future[list[_Read]]], network: PictureNetwork, most: int | None
) -> Iterator[tuple[str, Answer] | DataError]:
    found = [each for part in parts for each in part.result()]
    pictures = [each[1] for each in found if not isinstance(each, DataError)]
    answers = iter(network.answers.read(network.compute(torch.stack(pictures)), most=most) if pictures else ())
    for each in found:
        yield each if isinstance(each, DataError) else (each[0], next(answers))
