"""The cache is where only its user can write, or says so."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dist_train.data.cache.location import choose_directory, choose_fallback, make_private
from dist_train.errors import DataError
from tests.unit.dist_train.data.files import Settings, opened, refusal

STRANGER = 12345
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files to another user")


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.mark.usefixtures("umask")
def test_a_new_cache_is_of_this_user_only(settings: Settings, tmp_path: Path) -> None:
    opened(settings("digits", cache=str(tmp_path / "new" / "cache")))
    assert mode(tmp_path / "new") == mode(tmp_path / "new" / "cache") == 0o700


@pytest.mark.parametrize("shared", [0o777, 0o1777, 0o2777, 0o757])
def test_each_user_of_a_shared_cache_has_a_folder(settings: Settings, tmp_path: Path, shared: int) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(shared)
    opened(settings("digits"))
    own = tmp_path / "cache" / f"user-{os.getuid()}"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [own.name]
    assert mode(own) & 0o777 == 0o700
    assert list(own.glob("digits-*"))


@pytest.mark.parametrize("kind", ["link", "file", "writable", "stranger"])
def test_a_folder_that_others_have_prepared_is_refused(settings: Settings, tmp_path: Path, kind: str) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o1777)
    own = tmp_path / "cache" / f"user-{os.getuid()}"
    if kind == "link":
        (tmp_path / "elsewhere").mkdir()
        own.symlink_to(tmp_path / "elsewhere")
    elif kind == "file":
        own.write_text("")
    else:
        own.mkdir()
        own.chmod(0o777 if kind == "writable" else 0o700)
        if kind == "stranger":
            if os.getuid() != 0:
                pytest.skip("only root can give files to another user")
            os.chown(own, STRANGER, STRANGER)
    assert "is not a directory that only this user can write" in refusal(settings("digits"))
    assert not list((tmp_path / "elsewhere").glob("*")) or kind != "link"


@needs_root
@pytest.mark.parametrize("directory", [0o777, 0o1777])
def test_a_link_of_another_user_is_not_followed(tmp_path: Path, directory: int) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(directory)
    (tmp_path / "bait").mkdir()
    (shared / "cache").symlink_to(tmp_path / "bait")
    choose_directory(shared / "cache")  # one's own link is
    os.chown(shared / "cache", STRANGER, STRANGER, follow_symlinks=False)
    for path in (shared / "cache", shared / "cache" / "below"):
        with pytest.raises(DataError, match="is a symbolic link of another user"):
            choose_directory(path)
    (tmp_path / "over").symlink_to(shared / "cache")
    with pytest.raises(DataError, match="is a symbolic link of another user"):
        choose_directory(tmp_path / "over")


@needs_root
def test_a_cache_below_what_others_can_replace_is_said_to_be_trusted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "theirs" / "cache").mkdir(parents=True, mode=0o700)
    os.chown(tmp_path / "theirs", STRANGER, STRANGER)
    with caplog.at_level(logging.WARNING):
        choose_directory(tmp_path / "theirs" / "cache")
    assert f"other users can change {tmp_path / 'theirs'}: what the cache holds is trusted" in caplog.text


def test_a_link_to_itself_is_no_endless_loop(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "cache").symlink_to("cache")
    assert refusal(settings("digits")).startswith("data.cache: cannot write under")


def test_only_the_default_cache_has_a_fallback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert choose_fallback(tmp_path / "named") is None
    fallback = choose_fallback(tmp_path / "home" / "dist-train")
    assert fallback == tmp_path / f"dist-train-{os.getuid()}"
    assert mode(fallback) == 0o700


@pytest.mark.parametrize("obstacle", ["file", "/proc"])
def test_a_named_cache_that_cannot_be_written_is_refused(settings: Settings, tmp_path: Path, obstacle: str) -> None:
    (tmp_path / "file").write_text("")
    where = tmp_path / "file" if obstacle == "file" else Path("/proc")
    assert refusal(settings("digits", cache=str(where / "cache"))).startswith("data.cache: cannot write under")


def test_a_private_directory_is_made_once(tmp_path: Path) -> None:
    assert make_private(tmp_path / "a" / "b") == make_private(tmp_path / "a" / "b")
    assert mode(tmp_path / "a") == 0o700
