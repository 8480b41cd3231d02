"""The checkpoints of a run on disk: written aside, synced and renamed, and verified whenever they are read.

checkpoints/step_00001200/model.pt       state_dict of the network, plain names
                          average.pt     the same of the moving average, where there is one
                          training.pt    epoch, step, optimizer_state_dict, loss, and the rest
                          manifest.json  {"step", "weights_sha256", "files": {name: {"sha256", "bytes"}}}
checkpoints/latest -> step_00001200      checkpoints/best -> step_00000900
checkpoints/quarantine/step_00001100     a damaged one, with the reason in its reason.txt

A power cut or a kill at any moment leaves the checkpoints that were there, and hidden names that the next save clears.
"""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dist_train.errors import CheckpointError, DamagedError

RESERVE = 16 * 2**20  # bytes that a save leaves free, for metrics and logs

_NAME = re.compile(r"step_(\d{8,})")
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stored:
    """What one checkpoint holds, as its manifest says it was written."""

    step: int
    weights_sha256: str
    files: dict[str, bytes]


@dataclass(frozen=True)
class Entry:
    """One line of a list of checkpoints."""

    step: int
    bytes: int
    time: float
    """When it was written, in seconds since 1970."""
    links: tuple[str, ...]
    fault: str | None
    """What is wrong with it; None where it was found whole or was not verified."""


class Store:
    """The directory `checkpoints/` of a run. Only one process may write there: the one that holds the run's lock."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.quarantined = directory / "quarantine"

    def place(self, step: int) -> Path:
        """Where the checkpoint of a step lies, or would."""
        return self.directory / f"step_{step:08d}"

    def steps(self) -> list[int]:
        """The steps of all checkpoints, rising; none of them verified."""
        if not self.directory.is_dir():
            return []
        names = [_NAME.fullmatch(entry.name) for entry in self.directory.iterdir()]
        return sorted(int(name[1]) for name in names if name and _is_directory(self.directory / name[0]))

    def newest(self, load: Callable[[Path], _T]) -> tuple[_T | None, dict[int, DamagedError]]:
        """What `load` makes of the newest checkpoint that it does not find damaged, and the faults of those after it.

        Anything else that `load` raises ends the search: another checkpoint would not mend it.
        """
        faults: dict[int, DamagedError] = {}
        for step in reversed(self.steps()):
            try:
                return load(self.place(step)), faults
            except DamagedError as error:
                faults[step] = error
        return None, faults

    def save(
        self,
        step: int,
        files: Mapping[str, bytes],
        weights_sha256: str,
        link: str | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> Path:
        """Write the checkpoint of `step` and point `latest` (and `link`) at it; a whole one that is there is kept.

        Args:
            files: content of each file by its name; `model.pt` and `training.pt` among them.
            weights_sha256: hash of the weights, for the manifest.
            check: called right before the checkpoint gets its name; what it raises ends the save.

        Raises:
            OSError: the disk is full, read-only or broken. What was there before stays, and nothing half written.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self._clear()
        if not self._is_saved(step):
            self._write(step, files, weights_sha256, check)
        for name in ("latest", *([link] if link else [])):
            _point(self.directory / name, self.place(step).name)
        _sync(self.directory)
        return self.place(step)

    def prune(self, keep_last: int) -> None:
        """Remove all but the newest `keep_last`, what the links lead to, and what a killed save has left behind.

        Raises:
            OSError: the disk takes no change. A checkpoint that could not be removed wholly has a hidden name by then.
        """
        kept = {self.place(step) for step in self.steps()[-keep_last:]}
        linked = {link.resolve(strict=True) for link in self._links() if link.exists()}
        for step in self.steps():
            place = self.place(step)
            if place not in kept and place.resolve(strict=True) not in linked:
                # A kill in the middle of the removal must not leave what looks like a checkpoint.
                place.rename(place.with_name(f".{place.name}.old"))
        self._clear()

    def mend_links(self, best_step: int | None) -> None:
        """Let `latest` and `best` lead where a kill after a save kept them from leading; a newer best stays.

        A link to a checkpoint that is gone, as one in quarantine is, goes too.
        """
        for link in self._links():
            if not link.exists():
                link.unlink()
        steps = self.steps()
        for name, step in (("latest", steps[-1] if steps else None), ("best", best_step)):
            if step in steps and _led_to(self.directory / name) < step:
                _point(self.directory / name, self.place(step).name)

    def quarantine(self, step: int, reason: str) -> Path:
        """Move a damaged checkpoint to `quarantine/`, to a free name, with the reason in its `reason.txt`.

        Raises:
            OSError: the disk takes no change.
        """
        self.quarantined.mkdir(exist_ok=True)
        place, number = self.quarantined / self.place(step).name, 1
        while place.exists():
            number += 1
            place = self.quarantined / f"{self.place(step).name}-{number}"
        self.place(step).rename(place)
        _sync(self.directory)
        _write_synced(place / "reason.txt", f"{reason}\n".encode())
        _sync(self.quarantined)
        return place

    def entries(self, verify: bool) -> list[Entry]:
        """All checkpoints, the oldest first; with `verify` every byte of them is read."""
        links = {link.name: _led_to(link) for link in self._links()}
        return [self._entry(step, links, verify) for step in self.steps()]

    def _entry(self, step: int, links: dict[str, int], verify: bool) -> Entry:
        place = self.place(step)
        files = [path.stat() for path in place.iterdir()]
        return Entry(
            step=step,
            bytes=sum(file.st_size for file in files),
            time=max((file.st_mtime for file in files), default=place.stat().st_mtime),
            links=tuple(sorted(name for name, led_to in links.items() if led_to == step)),
            fault=fault(place) if verify else None,
        )

    def _links(self) -> list[Path]:
        """The links by which users and evaluations find a checkpoint."""
        return [path for path in self.directory.glob("[!.]*") if path.is_symlink()]

    def _clear(self) -> None:
        """Remove what a save or a removal that was cut short has left, under its hidden names, as far as it goes."""
        for entry in list(self.directory.glob(".*")):
            if entry.is_symlink():
                entry.unlink()
            elif _NAME.match(entry.name, 1):
                shutil.rmtree(entry, ignore_errors=True)

    def _is_saved(self, step: int) -> bool:
        """Whether a whole checkpoint of `step` is there; what is damaged is moved out of the way."""
        if not _is_directory(self.place(step)):
            return False
        reason = fault(self.place(step))
        if reason:
            _log.warning("%s; set aside as %s", reason, self.quarantine(step, reason))
        return not reason

    def _write(self, step: int, files: Mapping[str, bytes], weights_sha256: str, check: Callable[[], None]) -> None:
        self._check_space(sum(len(content) for content in files.values()))
        aside = self.directory / f".{self.place(step).name}.{os.getpid()}"
        try:
            _write_directory(aside, step, files, weights_sha256)
            check()
            aside.rename(self.place(step))
        except Exception:
            shutil.rmtree(aside, ignore_errors=True)  # on a full disk others wait for the space
            raise
        _sync(self.directory)

    def _check_space(self, needed: int) -> None:
        usage = shutil.disk_usage(self.directory)
        if usage.total and usage.free < needed + RESERVE:  # some network file systems know no numbers
            raise OSError(
                errno.ENOSPC,
                f"the checkpoint takes {needed / 1e6:,.1f} MB and {RESERVE / 1e6:,.1f} MB are to stay free, but "
                f"{usage.free / 1e6:,.1f} MB are",
                str(self.directory),
            )


def find(path: Path) -> Path:
    """The checkpoint that a user means: its directory, or the newest of a run or of a `checkpoints/`.

    Raises:
        CheckpointError: there is none.
    """
    for directory in (path, path / "checkpoints"):
        if (directory / "manifest.json").exists() or (_NAME.fullmatch(directory.name) and directory.is_dir()):
            return directory
        if newest := Store(directory).steps():
            return Store(directory).place(newest[-1])
    raise CheckpointError(f"{path}: no checkpoint there; give a run's directory or one of its checkpoints/step_*")


def read(checkpoint: Path) -> Stored:
    """The content of a checkpoint, every file checked against the manifest, and the manifest against the name.

    Raises:
        DamagedError: a file is missing or is not what was written.
    """
    try:
        step, weights_sha256, about = _manifest(checkpoint)
        files = {name: (checkpoint / name).read_bytes() for name in about}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{checkpoint}: does not load: {error}") from error
    if missing := {"model.pt", "training.pt"} - set(files):
        raise DamagedError(f"{checkpoint}: does not load: it has no {' and no '.join(sorted(missing))}")
    for name, (sha256, size) in about.items():
        _check_file(checkpoint / name, files[name], sha256, size)
    named = _NAME.fullmatch(checkpoint.resolve().name)
    if named and int(named[1]) != step:
        raise DamagedError(f"{checkpoint}: does not load: its manifest is of step {step}")
    return Stored(step, weights_sha256, files)


def fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, None where it is what was written."""
    try:
        read(checkpoint)
    except DamagedError as error:
        return str(error)
    return None


def _manifest(checkpoint: Path) -> tuple[int, str, dict[str, tuple[str, int]]]:
    """Step, hash of the weights, and (SHA-256, bytes) of each file; raises ValueError and others if it is none."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    files = {str(name): (str(file["sha256"]), int(file["bytes"])) for name, file in manifest["files"].items()}
    if outside := [name for name in files if Path(name).name != name]:
        raise ValueError(f"its manifest names files outside of it: {', '.join(outside)}")
    return int(manifest["step"]), str(manifest["weights_sha256"]), files


def _check_file(path: Path, content: bytes, sha256: str, size: int) -> None:
    if len(content) != size:
        raise DamagedError(f"{path}: is damaged, it has {len(content)} bytes and {size} were written")
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DamagedError(f"{path}: is damaged, its SHA-256 is not that of the manifest")


def _write_directory(aside: Path, step: int, files: Mapping[str, bytes], weights_sha256: str) -> None:
    aside.mkdir()
    manifest: dict[str, Any] = {"step": step, "weights_sha256": weights_sha256, "files": {}}
    for name, content in files.items():
        _write_synced(aside / name, content)
        manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    _write_synced(aside / "manifest.json", json.dumps(manifest, indent=2).encode())
    _sync(aside)


def _write_synced(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync(directory: Path) -> None:
    """Make the names in a directory survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _point(link: Path, target: str) -> None:
    aside = link.with_name(f".{link.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    aside.symlink_to(target)
    aside.replace(link)


def _led_to(link: Path) -> int:
    """The step of the checkpoint that a link leads to, -1 where it leads to none."""
    name = _NAME.fullmatch(str(link.readlink())) if link.is_symlink() and link.exists() else None
    return int(name[1]) if name else -1


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
