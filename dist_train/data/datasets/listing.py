"""List the pictures in folders of classes, and count the files that are ignored."""

import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from dist_train.data.samples import SplitName
from dist_train.system.escape import escape

NOT_DATA = frozenset(
    {"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information", "Thumbs.db", "desktop.ini"}
)
"""Names that systems create in folders; like names that begin with a dot, they are ignored at every level."""
FOLDERS: dict[SplitName, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("val", "valid", "validation"),
    "test": ("test",),
}
"""Names of the folder of each split."""
MOST = 10
"""Endings that a message lists."""

File = tuple[str, os.stat_result]
FolderId = tuple[int, int]


@dataclass
class PassedOver:
    """Counts of files that are not read as pictures."""

    endings: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    links: int = 0
    """Links to folders that were listed already."""

    def add(self, other: "PassedOver") -> None:
        """Add the counts of `other`."""
        self.endings += other.endings
        self.hidden += other.hidden
        self.links += other.links

    def __str__(self) -> str:
        listed = [f"{count} {escape(ending)}" for ending, count in self.endings.most_common(MOST)]
        if rest := self.endings.total() - sum(count for _, count in self.endings.most_common(MOST)):
            listed.append(f"{rest} with other endings")
        if self.hidden:
            listed.append(f"{self.hidden} hidden")
        if self.links:
            listed.append(f"{self.links} links to folders that are read already")
        return ", ".join(listed)


def is_hidden(name: str) -> bool:
    """Whether a name is ignored: `.ipynb_checkpoints`, `._1.jpg`, `Thumbs.db`."""
    return name.startswith(".") or name in NOT_DATA


def list_classes(folder: Path, passed: PassedOver) -> tuple[str, ...]:
    """List the names of the folders in a folder, in order; raises OSError."""
    classes = []
    for entry in os.scandir(folder):
        if is_hidden(entry.name):
            passed.hidden += 1
        elif entry.is_dir():
            classes.append(entry.name)
        else:
            passed.endings[_find_ending(entry.name)] += 1
    return tuple(sorted(classes))


def is_whole_folder(root: Path) -> bool:
    """Whether a folder holds folders of classes, and none of a split."""
    names = {name for names in FOLDERS.values() for name in names}
    return not any((root / name).is_dir() for name in names) and any(map(os.path.isdir, _list_visible(root)))


def _list_visible(folder: Path) -> list[str]:
    return [entry.path for entry in os.scandir(folder) if not is_hidden(entry.name)] if folder.is_dir() else []


def identify(folder: Path) -> FolderId:
    """Return an identifier that is the same for a folder and all links to it."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def list_pictures(
    folder: Path, endings: tuple[str, ...], elsewhere: frozenset[FolderId], passed: PassedOver
) -> list[File]:
    """List the regular files of `list_names` with their status; raises OSError also for a dangling link."""
    files = map(_stat, list_names(folder, endings, elsewhere, passed))
    return [file for file in files if _is_regular(file, passed)]


def list_names(folder: Path, endings: tuple[str, ...], elsewhere: frozenset[FolderId], passed: PassedOver) -> list[str]:
    """List the paths with one of these endings at any depth, in torchvision's order; no folder is listed twice.

    Args:
        elsewhere: folders that links are not followed to, such as those of other classes.

    Raises:
        OSError: a folder can't be listed.
    """
    seen, found = set(elsewhere), []
    folders, links = [str(folder)], list[str]()
    while folders or links:  # links last, so that a folder has its own name and not that of a link
        directory = folders.pop() if folders else links.pop()
        if (identity := identify(Path(directory))) in seen:
            passed.links += 1
            continue
        seen.add(identity)
        names = []
        for entry in os.scandir(directory):
            if is_hidden(entry.name):
                passed.hidden += 1
            elif entry.is_dir():
                (links if entry.is_symlink() else folders).append(entry.path)
            elif entry.name.lower().endswith(endings):
                names.append(entry.name)
            else:
                passed.endings[_find_ending(entry.name)] += 1
        links.sort(reverse=True)
        found.append((directory, sorted(names)))
    return [os.path.join(directory, name) for directory, names in sorted(found) for name in names]  # noqa: PTH118


def _stat(path: str) -> File:
    return path, os.stat(path)  # noqa: PTH116 - a Path for each of a million files takes seconds


def _is_regular(file: File, passed: PassedOver) -> bool:
    if stat.S_ISREG(file[1].st_mode):
        return True
    passed.endings["pipes, sockets or devices"] += 1
    return False


def _find_ending(name: str) -> str:
    return os.path.splitext(name)[1].lower() or "without an ending"  # noqa: PTH122
