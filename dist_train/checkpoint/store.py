"""The checkpoints of a run on disk: written aside, synced and renamed, and verified whenever they are read.

checkpoints/step_00001200/model.pt       state_dict of the network, plain names
                          average.pt     the same of the moving average, where there is one
                          training.pt    epoch, step, optimizer_state_dict, loss, and the rest
                          manifest.json  {"step", "weights_sha256", "files": {name: {"sha256", "bytes"}}}
checkpoints/latest -> step_00001200      checkpoints/best -> step_00000900
checkpoints/quarantine/step_00001100     a damaged one, with the reason in its reason.txt

A power cut or a kill at any moment keeps the existing checkpoints, and leaves hidden names that the next save removes.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dist_train.checkpoint.reader import NAME, explain_unreadable, find_fault, try_again
from dist_train.errors import CheckpointError, DamagedError, UnreadableError
from dist_train.system.escape import escape
from dist_train.system.read_file import list_directory

RESERVE = 16 * 2**20  # bytes that a save leaves free, for metrics and logs

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckpointInfo:
    """Step, size, time, links and state of one checkpoint."""

    step: int
    bytes: int
    time: float
    """When it was written, in seconds since 1970."""
    links: tuple[str, ...]
    fault: str | None
    """What is damaged; None if nothing is, or if it was not verified."""
    unreadable: str | None = None
    """Why it can't be read now; None if it can."""


class Store:
    """The directory `checkpoints/` of a run. Only one process may write there: the one that holds the run's lock."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.quarantined = directory / "quarantine"

    def path(self, step: int) -> Path:
        """The directory of the checkpoint of a step, whether it exists or not."""
        return self.directory / f"step_{step:08d}"

    def steps(self) -> list[int]:
        """The steps of all checkpoints, ascending; none of them verified.

        Raises:
            OSError: the directory is there, but can't be listed now.
        """
        try:
            return try_again(self._list_steps)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _list_steps(self) -> list[int]:
        with os.scandir(self.directory) as entries:
            names = [NAME.fullmatch(entry.name) for entry in entries if entry.is_dir(follow_symlinks=False)]
        return sorted(int(name[1]) for name in names if name)

    def list_steps(self) -> list[int]:
        """The steps of all checkpoints, as `steps`; raises UnreadableError if the directory can't be listed now."""
        try:
            return self.steps()
        except OSError as error:
            raise explain_unreadable(self.directory, error) from error

    def newest(self, load: Callable[[Path], _T]) -> tuple[_T | None, dict[int, DamagedError]]:
        """Load the newest undamaged checkpoint; return it and the errors of the damaged ones after it.

        Other errors of `load` end the search: an older checkpoint would have them too, and one that can't be read now
        is not to be passed over.
        """
        faults: dict[int, DamagedError] = {}
        for step in reversed(self.list_steps()):
            try:
                return load(self.path(step)), faults
            except DamagedError as error:
                faults[step] = error
        return None, faults

    def save(
        self,
        step: int,
        files: Mapping[str, bytes],
        weights_sha256: str,
        check: Callable[[], None] = lambda: None,
    ) -> Path:
        """Write the checkpoint of `step`; an undamaged one that exists is kept.

        Args:
            files: content of each file by its name; `model.pt` and `training.pt` among them.
            weights_sha256: hash of the weights, for the manifest.
            check: called right before the checkpoint gets its name; what it raises ends the save.

        Raises:
            OSError: the disk is full, read-only or broken. Earlier checkpoints stay, and no incomplete one.
            UnreadableError: a checkpoint of `step` exists and can't be read now.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self.clear_leftovers()
        if not self._is_saved(step):
            self._write(step, files, weights_sha256, check)
        return self.path(step)

    def point(self, links: Mapping[str, int]) -> None:
        """Point each link at the checkpoint of its step; raises OSError."""
        for name, step in links.items():
            if _linked_step(self.directory / name) != step:
                _point(self.directory / name, self.path(step).name)
        _sync(self.directory)

    def prune(self, keep_last: int) -> None:
        """Remove all but the newest `keep_last` and the linked ones, and the leftovers of a killed save.

        Raises:
            OSError: the disk cannot be written. A checkpoint that is removed in part has a hidden name.
        """
        kept = {self.path(step) for step in self.steps()[-keep_last:]}
        linked = {link.resolve(strict=True) for link in self._links() if not _is_dangling(link)}
        for step in self.steps():
            path = self.path(step)
            if path not in kept and path.resolve(strict=True) not in linked:
                # A kill in the middle of the removal must not leave what looks like a checkpoint.
                path.rename(path.with_name(f".{path.name}.old"))
        self.clear_leftovers()

    def repair_links(self, best_step: int | None) -> None:
        """Repair `latest` and `best` after a crash between a save and its links; a newer best stays.

        A link to a checkpoint that no longer exists is removed.
        """
        for link in self._links():
            if _is_dangling(link):
                link.unlink()
        steps = self.steps()
        for name, step in (("latest", steps[-1] if steps else None), ("best", best_step)):
            if step in steps and _linked_step(self.directory / name) < step:
                _point(self.directory / name, self.path(step).name)

    def quarantine(self, step: int, reason: str) -> Path:
        """Move a damaged checkpoint to `quarantine/`, to a free name, with the reason in its `reason.txt`.

        Raises:
            OSError: the disk cannot be written.
        """
        self.quarantined.mkdir(exist_ok=True)
        path, number = self.quarantined / self.path(step).name, 1
        while path.exists():
            number += 1
            path = self.quarantined / f"{self.path(step).name}-{number}"
        self.path(step).rename(path)
        _sync(self.directory)
        _write_synced(path / "reason.txt", f"{reason}\n".encode())
        _sync(self.quarantined)
        return path

    def has_quarantined(self) -> bool:
        """Whether checkpoints were set aside as damaged; raises UnreadableError."""
        try:
            return bool(list_directory(self.quarantined))
        except OSError as error:
            raise explain_unreadable(self.quarantined, error) from error

    def entries(self, verify: bool) -> list[CheckpointInfo]:
        """Describe all checkpoints, the oldest first; `verify` reads every byte. Raises UnreadableError."""
        steps = self.list_steps()
        links = {link.name: _linked_step(link) for link in self._links()} if steps else {}
        return [self._entry(step, links, verify) for step in steps]

    def _entry(self, step: int, links: dict[str, int], verify: bool) -> CheckpointInfo:
        path, damage, unreadable = self.path(step), None, None
        names = tuple(sorted(name for name, linked in links.items() if linked == step))
        try:
            files = [file.stat() for file in path.iterdir()]
            written = max((file.st_mtime for file in files), default=path.stat().st_mtime)
            damage = find_fault(path) if verify else None
        except OSError as error:
            return CheckpointInfo(step, 0, 0.0, names, None, str(explain_unreadable(path, error)))
        except UnreadableError as error:
            unreadable = str(error)
        return CheckpointInfo(step, sum(file.st_size for file in files), written, names, damage, unreadable)

    def _links(self) -> list[Path]:
        """The links to checkpoints, such as `latest` and `best`; raises OSError if they can't be listed now."""
        with os.scandir(self.directory) as entries:
            names = sorted(entry.name for entry in entries if entry.is_symlink() and not entry.name.startswith("."))
        return [self.directory / name for name in names]

    def clear_leftovers(self) -> None:
        """Remove the hidden leftovers of interrupted saves and removals, as far as possible."""
        with suppress(OSError):
            for entry in list_directory(self.directory):
                if entry.is_symlink() and entry.name.startswith("."):
                    entry.unlink()
                elif NAME.match(entry.name, 1) and entry.name.startswith("."):
                    shutil.rmtree(entry, ignore_errors=True)

    def _is_saved(self, step: int) -> bool:
        """Whether an undamaged checkpoint of `step` exists; a damaged one is quarantined."""
        if not _is_directory(self.path(step)):
            return False
        reason = find_fault(self.path(step))
        if reason:
            _log.warning("%s; set aside as %s", reason, self.quarantine(step, reason))
        return not reason

    def _write(self, step: int, files: Mapping[str, bytes], weights_sha256: str, check: Callable[[], None]) -> None:
        self._check_space(sum(len(content) for content in files.values()))
        aside = self.directory / f".{self.path(step).name}.{os.getpid()}"
        try:
            _write_directory(aside, step, files, weights_sha256)
            check()
            aside.rename(self.path(step))
        except Exception:
            shutil.rmtree(aside, ignore_errors=True)  # on a full disk others wait for the space
            raise
        try:
            _sync(self.directory)
        except OSError as error:
            _log.warning("%s: is saved, but may not survive a power cut: %s", self.path(step), error.strerror or error)

    def _check_space(self, needed: int) -> None:
        usage = shutil.disk_usage(self.directory)
        if usage.total and usage.free < needed + RESERVE:  # some network file systems report no sizes
            raise OSError(
                errno.ENOSPC,
                f"the checkpoint takes {needed / 1e6:,.1f} MB and {RESERVE / 1e6:,.1f} MB have to stay free, but only "
                f"{usage.free / 1e6:,.1f} MB are free",
            )


def find(path: Path) -> Path:
    """Find a checkpoint: a checkpoint's directory, or the newest of a run or of a `checkpoints/`.

    Raises:
        CheckpointError: there is no checkpoint.
        UnreadableError: a directory can't be listed now.
    """
    for directory in (path, path / "checkpoints"):
        if os.path.lexists(directory / "manifest.json") or (NAME.fullmatch(directory.name) and directory.is_dir()):
            return directory
        if newest := Store(directory).list_steps():
            return Store(directory).path(newest[-1])
    raise CheckpointError(
        f"{escape(path)}: no checkpoint there; give a run's directory or one of its checkpoints/step_*"
    )


def explain_unwritten(error: OSError) -> str:
    """Return why a change of the directory has failed, with the path if it is known."""
    reason = error.strerror or str(error)
    return reason if error.filename is None else f"{escape(error.filename)}: {reason}"


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
    """Sync a directory, so that its names survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _point(link: Path, target: str) -> None:
    aside = link.with_name(f".{link.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    aside.symlink_to(target)
    try:
        aside.replace(link)
    except IsADirectoryError as error:  # a copy of the run that has followed its links
        aside.unlink()
        reason = "is a directory in the place of a link; remove it"
        raise IsADirectoryError(error.errno, reason, str(link)) from error


def _linked_step(link: Path) -> int:
    """Return the step of the checkpoint that a link points to; -1 if there is none."""
    if not link.is_symlink() or _is_dangling(link):
        return -1
    name = NAME.fullmatch(str(link.readlink()))
    return int(name[1]) if name else -1


def _is_dangling(link: Path) -> bool:
    """Whether a link is dangling; raises OSError if that can't be checked now."""
    try:
        link.stat()
    except FileNotFoundError:
        return True
    return False


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
