"""Checkpoints on disk: whole or not there, the same bytes that were written, whatever the disk does."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from dist_train.checkpoint import reader
from dist_train.checkpoint.reader import read
from dist_train.checkpoint.store import RESERVE, Store, find
from dist_train.errors import CheckpointError, ConfigError, UnreadableError
from dist_train.system.read_file import read_bytes


def content(step: int) -> dict[str, bytes]:
    return {"model.pt": bytes([step % 256]) * 5000, "training.pt": f"step {step}".encode()}


def save(directory: Path, *steps: int, link: str | None = None) -> Path:
    for step in steps:
        Store(directory).save(step, content(step), f"weights of {step}")
        Store(directory).point({"latest": step, **({link: step} if link else {})})
    return Store(directory).path(steps[-1])


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


# What changes a disk or asks it, as `os` has it. Reading files is not among them: that has tests of its own.
CALLS = (
    *("open", "write", "fsync", "close", "mkdir", "rename", "replace", "symlink", "unlink", "rmdir"),
    *("listdir", "scandir", "readlink"),
)
FAULTS = ("full", "broken", "killed before", "killed after")


class Disk:
    """Lets the n-th system call go wrong: it fails, or the process ends before it or after it; a write is half done."""

    def __init__(self, fault: str, at: int) -> None:
        self.fault, self.at = fault, at
        self.calls: list[str] = []

    @contextmanager
    def breaking(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with monkeypatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, self._wrapped(name, getattr(os, name)))
            yield

    @property
    def has_struck(self) -> bool:
        return len(self.calls) >= self.at

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append(name)
            if len(self.calls) != self.at:
                return real(*arguments, **options)
            if name == "write" and self.fault != "killed before":
                real(arguments[0], arguments[1][: len(arguments[1]) // 2])
            elif name == "close":
                real(*arguments)  # or this process would keep it open
            elif self.fault == "killed after":
                result = real(*arguments, **options)
                if name == "open":
                    os_close(result)
                elif name == "scandir":
                    result.close()
            if self.fault.startswith("killed"):
                raise Killed
            raise OSError(*{"full": (errno.ENOSPC, "disk full"), "broken": (errno.EIO, "disk broken")}[self.fault])

        return call


os_close = os.close


def each_fault(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    before: Callable[[Path], None],
    do: Callable[[Path], Any],
) -> Iterator[Path]:
    """Directories made by `before`, in each of which `do` was broken off at the next of its system calls."""
    at = 0
    while True:
        at += 1
        directory, disk = tmp_path / str(at), Disk(fault, at)
        before(directory)
        with disk.breaking(monkeypatch), suppress(OSError, Killed):
            do(directory)
        if not disk.has_struck:
            break
        yield directory
    assert at > 10, f"only {disk.calls}"


def two_checkpoints(directory: Path) -> None:
    save(directory, 1, link="best")
    save(directory, 2)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_save_that_breaks_off_anywhere_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def save_and_prune(directory: Path) -> None:
        save(directory, 3)
        Store(directory).prune(keep_last=1)

    for directory in each_fault(tmp_path, monkeypatch, fault, two_checkpoints, save_and_prune):
        checkpoints = Store(directory)
        assert [entry.fault for entry in checkpoints.entries(verify=True) if entry.fault] == []
        found, _ = checkpoints.newest(read)
        assert found is not None
        assert found.step >= 2
        assert found.files == content(found.step)
        assert read(directory / "best").step == 1
        assert read(directory / "latest").step in (2, 3)
        save_and_prune(directory)
        save(directory, 4)
        checkpoints.prune(keep_last=2)
        assert names(directory) == ["best", "latest", "step_00000001", "step_00000003", "step_00000004"]
        assert [read(directory / name).step for name in ("best", "latest")] == [1, 4]


@pytest.mark.parametrize("fault", ["full", "broken"])
def test_a_save_that_fails_gives_its_space_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    for name in ("write", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, Disk(fault, 1)._wrapped(name, getattr(os, name)))
            with pytest.raises(OSError, match=f"disk {fault}"):
                save(tmp_path, 1)
        assert names(tmp_path) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_move_to_quarantine_that_breaks_off_anywhere_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def damaged(directory: Path) -> None:
        save(directory, 1, 2, 3)
        (directory / "step_00000003" / "model.pt").write_bytes(b"")

    def move(directory: Path) -> None:
        Store(directory).quarantine(3, "a reason")
        Store(directory).repair_links(None)

    for directory in each_fault(tmp_path, monkeypatch, fault, damaged, move):
        checkpoints = Store(directory)
        found, faults = checkpoints.newest(read)
        assert found is not None
        assert found.step == 2
        if faults:
            checkpoints.quarantine(3, "a reason")
        assert len(list((directory / "quarantine").iterdir())) == 1
        checkpoints.repair_links(None)
        assert read(directory / "latest").step == 2
        assert read(save(directory, 3)).step == 3


def test_all_is_synced_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(descriptor: int) -> None:
        called.append(Path(f"/proc/self/fd/{descriptor}").resolve().name)
        real_fsync(descriptor)

    def rename(source: Path, target: Path) -> None:
        called.append("rename")
        real_rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    save(tmp_path / "checkpoints", 1)
    aside = f".step_00000001.{os.getpid()}"
    assert called == ["model.pt", "training.pt", "manifest.json", aside, "rename", "checkpoints", "checkpoints"]


def test_a_save_is_refused_before_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)
    needed = sum(map(len, content(2).values()))
    usage = shutil.disk_usage(tmp_path)
    for free, fits in ((needed + RESERVE, True), (needed + RESERVE - 1, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        if fits:
            save(tmp_path, 2)
        else:
            with pytest.raises(
                OSError, match=r"takes 0\.0 MB and 16\.8 MB have to stay free, but only 16\.8 MB are free"
            ):
                save(tmp_path, 3)
    assert names(tmp_path) == ["latest", "step_00000001", "step_00000002"]


def test_whoever_has_lost_the_run_saves_nothing(tmp_path: Path) -> None:
    def check() -> None:
        assert any(name.startswith(".step_00000002") for name in names(tmp_path)), "asked too early"
        raise ConfigError("taken over")

    save(tmp_path, 1)
    with pytest.raises(ConfigError, match="taken over"):
        Store(tmp_path).save(2, content(2), "", check)
    assert names(tmp_path) == ["latest", "step_00000001"]


def test_quarantine_takes_a_free_name_and_says_why(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path, 1)
        place = Store(tmp_path).quarantine(1, f"reason {number}")
        assert place == tmp_path / "quarantine" / ("step_00000001" + (f"-{number + 1}" if number else ""))
        assert (place / "reason.txt").read_text() == f"reason {number}\n"
    assert Store(tmp_path).steps() == []


def test_a_damaged_one_in_the_way_of_a_save_is_set_aside(tmp_path: Path) -> None:
    (save(tmp_path, 1, 2) / "manifest.json").unlink()
    assert read(save(tmp_path, 2)).step == 2
    assert (tmp_path / "quarantine" / "step_00000002" / "model.pt").exists()


def test_the_newest_whole_one_is_found_and_the_others_are_named(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3, 4)
    (tmp_path / "step_00000004" / "model.pt").unlink()
    (tmp_path / "step_00000003" / "manifest.json").write_text("{}")
    found, faults = Store(tmp_path).newest(read)
    assert found is not None
    assert found.step == 2
    assert [(step, str(error).split(":")[0]) for step, error in faults.items()] == [
        (4, str(tmp_path / "step_00000004")),
        (3, str(tmp_path / "step_00000003")),
    ]
    assert Store(tmp_path / "nowhere").newest(read) == (None, {})


def test_the_list_says_what_is_there(tmp_path: Path) -> None:
    save(tmp_path, 1, link="best")
    model = save(tmp_path, 2) / "model.pt"
    model.write_bytes(bytes(5000))
    first, second = Store(tmp_path).entries(verify=True)
    assert (first.step, first.links, first.fault) == (1, ("best",), None)
    assert (second.step, second.links, second.fault) == (
        *(2, ("latest",)),
        f"{model}: is damaged, its SHA-256 is not that of the manifest",
    )
    assert second.bytes == sum(path.stat().st_size for path in model.parent.iterdir())
    assert second.time == model.stat().st_mtime
    assert [entry.fault for entry in Store(tmp_path).entries(verify=False)] == [None, None]


def test_a_link_to_what_is_gone_goes(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, link="best")
    Store(tmp_path).quarantine(2, "a reason")
    Store(tmp_path).repair_links(best_step=2)
    assert names(tmp_path) == ["latest", "quarantine", "step_00000001"]
    assert read(tmp_path / "latest").step == 1


def test_the_manifest_is_true(tmp_path: Path) -> None:
    place = save(tmp_path, 3)
    manifest = json.loads((place / "manifest.json").read_text())
    assert set(manifest) == {"step", "weights_sha256", "files"}
    assert manifest["step"] == 3
    assert manifest["weights_sha256"] == "weights of 3"
    for name in ("model.pt", "training.pt"):
        written = (place / name).read_bytes()
        assert manifest["files"][name] == {"sha256": hashlib.sha256(written).hexdigest(), "bytes": len(written)}


def test_links_follow(tmp_path: Path) -> None:
    save(tmp_path, 1, link="best")
    save(tmp_path, 2)
    assert (tmp_path / "latest").readlink() == Path("step_00000002")
    assert (tmp_path / "best").readlink() == Path("step_00000001")
    save(tmp_path, 3, link="best")
    assert (tmp_path / "latest").resolve() == (tmp_path / "best").resolve() == tmp_path / "step_00000003"


def test_links_are_repaired_and_a_newer_best_stays(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3)
    (tmp_path / "latest").unlink()
    Store(tmp_path).repair_links(best_step=2)
    assert [(tmp_path / name).readlink().name for name in ("latest", "best")] == ["step_00000003", "step_00000002"]
    Store(tmp_path).repair_links(best_step=1)
    assert (tmp_path / "best").readlink().name == "step_00000002"
    Store(tmp_path).repair_links(best_step=7)
    assert (tmp_path / "best").readlink().name == "step_00000002"
    (tmp_path / "best").unlink()
    Store(tmp_path).repair_links(best_step=None)
    assert not (tmp_path / "best").is_symlink()


def test_a_save_of_a_step_that_is_there_keeps_it(tmp_path: Path) -> None:
    place = save(tmp_path, 1)
    before = {path.name: (path.stat().st_ino, path.read_bytes()) for path in place.iterdir()}
    save(tmp_path, 2)
    assert Store(tmp_path).save(1, content(9), "weights of 9") == place
    assert {path.name: (path.stat().st_ino, path.read_bytes()) for path in place.iterdir()} == before


def test_a_save_under_way_has_a_hidden_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        seen.append(names(tmp_path))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    save(tmp_path, 1)
    hidden = [listing for listing in seen if any(name.startswith(".step_00000001") for name in listing)]
    assert len(hidden) == 4  # model.pt, training.pt, manifest.json, and the directory of the three
    assert all(not name.startswith("step_") for listing in hidden for name in listing)
    assert names(tmp_path) == ["latest", "step_00000001"]


def test_a_link_that_a_kill_left_half_made_keeps_nothing(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / ".latest.4711").symlink_to("step_00000001")
    save(tmp_path, 2)
    Store(tmp_path).prune(keep_last=1)
    assert names(tmp_path) == ["latest", "step_00000002"]


def test_prune_keeps_the_newest_and_what_links_lead_to(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, link="best")
    save(tmp_path, 10, 100, 1000)
    (tmp_path / "notes.txt").write_text("the user's")
    Store(tmp_path).prune(keep_last=2)
    assert Store(tmp_path).steps() == [2, 100, 1000]
    assert (tmp_path / "notes.txt").exists()
    Store(tmp_path).prune(keep_last=2)
    assert Store(tmp_path).steps() == [2, 100, 1000]


def test_a_removal_that_is_cut_short_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1, 2)
    monkeypatch.setattr("shutil.rmtree", lambda path, **_: (path / "model.pt").unlink())
    Store(tmp_path).prune(keep_last=1)
    assert not (tmp_path / ".step_00000001.old" / "model.pt").exists()
    assert Store(tmp_path).steps() == [2]
    monkeypatch.undo()
    Store(tmp_path).prune(keep_last=1)
    assert names(tmp_path) == ["latest", "step_00000002"]


def test_steps_are_sorted_by_number(tmp_path: Path) -> None:
    save(tmp_path, 123_456_789, 99_999_999, 5)
    (tmp_path / "step_00000007").mkdir()  # its manifest is lost: it is damaged, not nothing
    (tmp_path / "step_00000008").symlink_to("step_00000005")
    (tmp_path / "step_00000009").write_text("the user's")
    assert Store(tmp_path).steps() == [5, 7, 99_999_999, 123_456_789]
    assert Store(tmp_path / "nowhere").steps() == []


def test_find_takes_a_run_a_directory_of_checkpoints_a_checkpoint_and_a_link(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    save(checkpoints, 1, link="best")
    newest = save(checkpoints, 2)
    assert find(tmp_path) == find(checkpoints) == find(newest) == newest
    assert find(checkpoints / "best").resolve() == checkpoints / "step_00000001"


def test_where_there_is_none_find_says_so(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match=f"^{path}: no checkpoint there"):
            find(path)


def test_a_directory_that_cannot_be_listed_is_not_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)
    monkeypatch.setattr(reader, "PAUSES", (0.0,))
    for number in (errno.EIO, errno.EACCES, errno.EMFILE, errno.ESTALE):

        def scandir(path: Path, number: int = number) -> Any:
            raise OSError(number, os.strerror(number), str(path))

        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", scandir)
            for look in (Store(tmp_path).list_steps, lambda: Store(tmp_path).newest(read), lambda: find(tmp_path)):
                with pytest.raises(UnreadableError, match=f"^{tmp_path}: can't be read: {os.strerror(number)}"):
                    look()
    assert Store(tmp_path).steps() == [1]


def test_one_that_cannot_be_read_is_listed_and_never_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, 2)
    real = read_bytes

    def broken(path: Path, *limit: int) -> bytes:
        if path.parent.name == "step_00000002":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path, *limit)

    monkeypatch.setattr(reader, "PAUSES", ())
    monkeypatch.setattr(reader, "read_bytes", broken)
    with pytest.raises(UnreadableError):
        Store(tmp_path).newest(read)
    first, second = Store(tmp_path).entries(verify=True)
    assert (first.fault, first.unreadable, second.fault) == (None, None, None)
    assert "manifest.json: can't be read: Input/output error" in str(second.unreadable)
    with pytest.raises(UnreadableError):
        Store(tmp_path).save(2, content(2), "")
    assert names(tmp_path) == ["latest", "step_00000001", "step_00000002"], "nothing is moved"
