"""Write TensorBoard's event files of a run: curves, pictures, settings and the network's graph."""

import os
import re
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dist_train.eval_line import list_numbers
from dist_train.monitoring.event_records import (
    Node,
    Picture,
    encode_graph,
    encode_picture,
    encode_scalars,
    encode_settings,
    encode_start,
    encode_version,
    find_pictures,
)
from dist_train.system.append_file import AppendFile
from dist_train.system.read_file import list_directory

_EVENTS = "events.out.tfevents."
_ABOUT = f"{_EVENTS}{0:010d}."
"""The file with settings and graph, which TensorBoard reads first and keeps; so each start replaces it."""


class EventFiles:
    """Writes event files: each start adds one, which first removes points that a resumed run repeats."""

    def __init__(
        self, directory: Path, step: int, kept: Sequence[Mapping[str, Any]], earlier: Iterable[Mapping[str, Any]]
    ) -> None:
        """
        Args:
            step: the step at which the run starts; points of earlier starts after it are removed.
            kept: lines of metrics of this step that stay.
            earlier: all lines that stay, oldest first; read only if there are no event files.

        Raises:
            OSError: the files can't be written.
        """
        directory.mkdir(exist_ok=True)
        self._directory = directory
        found = list_directory(directory)
        files = [path for path in found if path.name.startswith(_EVENTS) and not path.name.startswith(_ABOUT)]
        outdated = [path for path in found if path.name.startswith((".events.", _ABOUT))]
        for path in (*outdated, *(files if step == 0 else [])):
            path.unlink()
        # TensorBoard reads the files in the order of their names.
        self._suffix = f"{socket.gethostname()}.{os.getpid()}.0"
        number = max([int(time.time()), *(1 + _read_number(path) for path in files)])
        name = f"{_EVENTS}{number:010d}.{self._suffix}"
        self._file = AppendFile(directory / f".{name}")
        self._file.write(encode_version(time.time()) + encode_start(time.time(), step))
        for line in kept if files else earlier:
            self.write(line)
        if files and step and any(line["kind"] == "eval" for line in kept):
            with suppress(OSError):  # of a disk with errors
                self._file.write(b"".join(find_pictures(files[-1], step)))
        self._file.rename(directory / name)

    def write(self, line: Mapping[str, Any]) -> None:
        """Write the numbers of a line of metrics."""
        is_train = line["kind"] == "train"
        prefix = "train" if is_train else line["split"]
        numbers = (
            {name: line[name] for name in ("loss", "lr", "samples_per_second")} if is_train else list_numbers(line)
        )
        scalars = {f"{prefix}/{name}": value for name, value in numbers.items() if value is not None}
        self._file.write(encode_scalars(line["time"], line["step"], scalars))

    def write_picture(self, step: int, tag: str, picture: Picture) -> None:
        """Write a picture of the network after a step."""
        self._file.write(encode_picture(time.time(), step, tag, picture))

    def write_about(self, name: str, settings: Mapping[str, Any], graph: Sequence[Node]) -> None:
        """Write the settings of the run, and the graph of its network if it has nodes, in place of those before."""
        path = self._directory / f"{_ABOUT}{self._suffix}"
        now = time.time()
        shown = {key: _to_shown(value) for key, value in settings.items() if value is not None}
        file = AppendFile(path.with_name(f".{path.name}"))
        file.write(encode_version(now) + encode_settings(now, name, shown))
        if graph:
            file.write(encode_graph(now, graph))
        file.rename(path)
        file.close()

    def close(self) -> None:
        self._file.close()


def _to_shown(value: Any) -> float | str:
    return value if isinstance(value, bool | int | float) else str(value)


def _read_number(events: Path) -> int:
    """The number in the name of an event file, by which the files are ordered; 0 without one."""
    number = events.name.split(".")[3]
    return int(number) if re.fullmatch(r"\d{1,12}", number) else 0
