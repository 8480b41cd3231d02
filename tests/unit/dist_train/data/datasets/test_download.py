"""Downloads: complete or nothing, by one process, and messages where files are missing."""

import fcntl
import gzip
import hashlib
import shutil
import socket
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError

import pytest

from dist_train.data.datasets import download
from dist_train.data.datasets.cifar import LAYOUTS
from dist_train.settings.schema import ImageData
from tests.unit.dist_train.data.files import (
    Settings,
    held_out,
    opened,
    refusal,
    write_cifar,
    write_idx,
)


def test_missing_files_are_named(settings: Settings, root: Path) -> None:
    (write_idx(root) / "t10k-labels-idx1-ubyte").unlink()
    message = refusal(settings("mnist"))
    assert message == (
        f"data.name mnist: {root}/MNIST/raw lacks t10k-labels-idx1-ubyte, and data.download is off. Put the files "
        "there, or set data.root (or the variable DIST_TRAIN_DATA) to the directory that holds MNIST/raw"
    )
    message = refusal(settings("cifar10"))
    assert "data_batch_1, data_batch_2" in message
    assert "batches.meta, and data.download is off" in message


def pack(root: Path, name: str) -> Path:
    """Pack the files of a data set as they are published, and remove them; return one of the archives."""
    if name == "mnist":
        for path in sorted((root / "MNIST/raw").iterdir()):
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
        return root / "MNIST/raw/train-images-idx3-ubyte.gz"
    archive = root / LAYOUTS[name].archive
    with tarfile.open(archive, "w:gz") as file:
        file.add(root / LAYOUTS[name].folder, LAYOUTS[name].folder)
    shutil.rmtree(root / LAYOUTS[name].folder)
    return archive


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100"])
def test_archives_in_place_are_unpacked_without_a_network(settings: Settings, root: Path, name: str) -> None:
    write_idx(root) if name == "mnist" else write_cifar(root, name)
    before = opened(settings(name)).identity
    pack(root, name)
    assert opened(settings(name)).identity == before
    assert not list(root.rglob(".*"))


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "flipped"])
def test_a_damaged_archive_is_named_and_leaves_no_file(settings: Settings, root: Path, name: str, damage: str) -> None:
    write_idx(root) if name == "mnist" else write_cifar(root, name)
    archive = pack(root, name)
    content = archive.read_bytes()
    middle = len(content) // 2
    archive.write_bytes(
        {
            "cut": content[:middle],
            "garbage": b"not an archive",
            "empty": b"",
            "flipped": content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :],
        }[damage]
    )
    message = refusal(settings(name))
    assert message.startswith(
        (f"{archive}: can't be unpacked (", f"{root}/MNIST/raw/train-images-idx3-ubyte: has 0 bytes")
    )
    assert not list(root.rglob(".*"))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", fail)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(("name", "folder"), [("kmnist", "KMNIST/raw"), ("cifar100", "cifar-100-python")])
def test_no_network(settings: Settings, tmp_path: Path, name: str, folder: str) -> None:
    """The root is made, nothing stays in it, and the message says where the files belong."""
    message = refusal(settings(name, download=True))
    assert message.startswith(f"data.name {name}: {tmp_path}/root/{folder} lacks t")
    assert "and they could not be downloaded (" in message
    assert "no route to host" in message
    assert f"DIST_TRAIN_DATA) to the directory that holds {folder}" in message
    assert list((tmp_path / "root").iterdir()) == []
    assert socket.getdefaulttimeout() is None


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small CIFAR-10 in the place of the original, behind an address of this machine."""
    from torchvision.datasets import CIFAR10

    folder = write_cifar(tmp_path / "server")
    path = tmp_path / "server" / "small.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, folder.name)
    md5 = {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in folder.iterdir()}  # noqa: S324
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(path.read_bytes()).hexdigest())  # noqa: S324
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5["batches.meta"]})
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5[name]] for name in LAYOUTS["cifar10"].batches["train"]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    handler = partial(SilentHandler, directory=str(path.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/{path.name}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield path
        server.shutdown()
        thread.join()


class SilentHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


# On Python 3.12 and 3.13, torchvision unpacks archives without naming a filter.
@pytest.mark.filterwarnings("ignore:Python 3.14 will, by default, filter:DeprecationWarning")
def test_a_download_leaves_the_files_and_nothing_else(
    settings: Settings, tmp_path: Path, archive: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert archive.exists()
    dataset = opened(settings("cifar10", download=True))
    assert (len(dataset.train), len(held_out(dataset))) == (20, 4)
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["cifar-10-batches-py"]
    assert len(list((tmp_path / "root" / "cifar-10-batches-py").iterdir())) == 7
    assert "not the original" not in caplog.text


def test_only_one_process_downloads(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds the lock meanwhile."""

    def deliver(_: object, config: ImageData, folder: Path) -> None:
        with (Path(config.cache) / "mnist.lock").open("r+") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        write_idx(folder.parent.parent)

    monkeypatch.setattr(download, "_download", deliver)
    assert len(opened(settings("mnist", download=True)).train) == 12


def test_a_damaged_download_leaves_nothing(settings: Settings, tmp_path: Path, archive: Path) -> None:
    archive.write_bytes(gzip.compress(b"half a file"))
    assert "could not be downloaded" in refusal(settings("cifar10", download=True))
    assert list((tmp_path / "root").iterdir()) == []
