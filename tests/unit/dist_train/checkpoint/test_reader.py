"""Reading checkpoints: damage is named and told from a disk that can't be read now."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dist_train.checkpoint import reader
from dist_train.checkpoint.reader import read
from dist_train.errors import CheckpointError, DamagedError, UnreadableError
from tests.unit.dist_train.checkpoint.test_store import content, save

GONE = ("ENOENT", "ENOTDIR", "EISDIR", "ELOOP", "ENAMETOOLONG", "EINVAL", "ENXIO", "EFBIG")


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    place = save(tmp_path / "checkpoints", 1200)
    assert place == tmp_path / "checkpoints" / "step_00001200"
    stored = read(place)
    assert (stored.step, stored.weights_sha256, stored.files) == (1200, "weights of 1200", content(1200))


def test_a_checkpoint_under_the_name_of_another_step_is_damaged(tmp_path: Path) -> None:
    save(tmp_path, 1).rename(tmp_path / "step_00000002")
    with pytest.raises(DamagedError, match=r"step_00000002: does not load: its manifest is of step 1"):
        read(tmp_path / "step_00000002")
    (tmp_path / "step_00000002").rename(tmp_path / "mine")
    assert read(tmp_path / "mine").step == 1


def test_a_manifest_can_name_no_file_elsewhere(tmp_path: Path) -> None:
    place = save(tmp_path, 1)
    manifest = json.loads((place / "manifest.json").read_text())
    manifest["files"]["../secret"] = {"sha256": "", "bytes": 0}
    (place / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedError, match=r"names files outside of it: \.\./secret"):
        read(place)


@pytest.mark.parametrize("name", ["model.pt", "training.pt"])
@pytest.mark.parametrize("damage", ["a bit", "the end", "all"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, name: str, damage: str) -> None:
    path = save(tmp_path, 1) / name
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes({"a bit": bytes(whole), "the end": path.read_bytes()[:-1], "all": b""}[damage])
    with pytest.raises(
        CheckpointError, match=rf"^{path}: is damaged, (its SHA-256|it has \d+ bytes and \d+ were written)"
    ):
        read(path.parent)


@pytest.mark.parametrize("name", ["model.pt", "training.pt", "manifest.json"])
def test_a_missing_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    place = save(tmp_path, 1)
    (place / name).unlink()
    with pytest.raises(CheckpointError, match=rf"^{place}: does not load: .*No such file.*{name}"):
        read(place)


@pytest.mark.parametrize(
    "manifest",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"step": 1, "weights_sha256": "", "files": {}}',
        '{"files": ["model.pt"]}',
        '{"files": {"model.pt": {}}}',
        '{"files": 1}',
        '{"step": 1, "weights_sha256": "", "files": {"model.pt": {"sha256": "", "bytes": 1e999}}}',
        '{"step": 1, "weights_sha256": "", "files": {"model.pt": {"sha256": "", "bytes": NaN}}}',
        "[" * 100000,
        "0" * 5000,
        "\xff",
    ],
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, manifest: str) -> None:
    place = save(tmp_path, 1)
    (place / "manifest.json").write_bytes(manifest.encode("latin-1"))
    with pytest.raises(CheckpointError, match=rf"^{place}: does not load"):
        read(place)


@pytest.mark.parametrize("name", sorted(errno.errorcode.values()))
def test_only_what_is_gone_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Every errno: a read that fails by it is tried again, and if that does not help, is named."""
    checkpoint, number = save(tmp_path, 1), getattr(errno, name)
    monkeypatch.setattr(reader, "PAUSES", (0.0, 0.0))
    for call, wanted in (("read_bytes", "manifest.json"), ("read_bytes", "model.pt"), ("stat", "training.pt")):
        for times, is_read in ((2, number not in [getattr(errno, gone) for gone in GONE]), (3, False)):
            with monkeypatch.context() as patch:
                target = reader if call == "read_bytes" else Path
                patch.setattr(target, call, failing(getattr(target, call), wanted, number, times))
                if is_read:
                    assert read(checkpoint).files == content(1)
                    continue
                with pytest.raises(CheckpointError, match=wanted) as raised:
                    read(checkpoint)
            assert isinstance(raised.value, DamagedError if name in GONE else UnreadableError)
            assert os.strerror(number) in str(raised.value)


def failing(real: Callable[..., object], wanted: str, number: int, times: int) -> Callable[..., object]:
    """Fail by an errno as often as `times`, for the file of the name `wanted`."""
    left = [times]

    def call(path: Path, *arguments: object, **options: object) -> object:
        if path.name == wanted and left[0]:
            left[0] -= 1
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *arguments, **options)

    return call


@pytest.mark.parametrize("name", ["model.pt", "training.pt", "manifest.json"])
@pytest.mark.parametrize("kind", ["directory", "pipe", "socket", "link to itself", "link to nothing"])
def test_what_is_no_file_is_damage_and_nothing_waits_for_it(tmp_path: Path, name: str, kind: str) -> None:
    path = save(tmp_path, 1) / name
    path.unlink()
    make: dict[str, Callable[[], None]] = {
        "directory": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "socket": lambda: os.mknod(path, 0o140644),
        "link to itself": lambda: path.symlink_to(name),
        "link to nothing": lambda: path.symlink_to("nothing"),
    }
    make[kind]()
    with pytest.raises(DamagedError, match=name):
        read(path.parent)
