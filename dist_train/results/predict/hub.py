"""Networks of a hubconf.py: of a directory, or of a repository on GitHub at one commit.

    hub/owner/repo@COMMIT:entry     downloaded once, to the folder of `torch.hub`
    hub//path/to/dir:entry          a directory; hub/./dir:entry is relative

Their code runs in this process. So code that does not belong to the user needs `--trust-code`.
"""

import contextlib
import re
import sys
import tempfile
import zipfile
from http.client import HTTPException
from pathlib import Path

import torch
from torch import nn

from dist_train.checkpoint.code_of_run import is_foreign
from dist_train.data.datasets.download import time_out_connections
from dist_train.errors import ConfigError
from dist_train.own_code.load import shown_as_own
from dist_train.system.escape import escape

_FORM = "write hub/owner/repo@COMMIT:entry, or hub//path/to/dir:entry for a directory with a hubconf.py"
_REPOSITORY = re.compile(r"([\w.-]+)/([\w.-]+?)(?:@([\w./-]*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def build_from_hub(name: str, *, has_weights: bool, trust_code: bool) -> nn.Module:
    """Call an entry of a hubconf.py.

    Args:
        name: without `hub/` in front.
        has_weights: whether it is called with `pretrained=True`, else without arguments.
        trust_code: also run code that is not the user's own.

    Raises:
        ConfigError: the name is of another form, or names no commit or entry; the code is not trusted, or gives no
            network.
        OwnCodeError: the code fails.
    """
    shown = escape(f"hub/{name}")
    place, colon, entry = name.rpartition(":")
    if not (colon and place and entry.isidentifier()):
        raise ConfigError(f"{shown}: names no entry; {_FORM}")
    if place.startswith(("/", ".", "~")):
        folder = Path(place).expanduser()
        _check_folder(folder, shown, trust_code)
    else:
        folder = _find_repository(place, shown, trust_code)
    arguments = {"pretrained": True} if has_weights else {}
    with shown_as_own(shown), contextlib.redirect_stdout(sys.stderr):
        try:
            network = torch.hub.load(str(folder), entry, source="local", **arguments)  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            if "Cannot find callable" not in str(error):
                raise
            raise ConfigError(f"{shown}: hubconf.py has no such entry; name one of its functions") from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{shown}: gives a {type(network).__name__}, and no torch.nn.Module; name another entry")
    return network


def _check_folder(folder: Path, shown: str, trust_code: bool) -> None:
    if not (folder / "hubconf.py").is_file():
        raise ConfigError(f"{shown}: {escape(folder)} has no file hubconf.py; {_FORM}")
    foreign = [path for path in (folder, *sorted(folder.rglob("*.py"))) if is_foreign(path)]
    if foreign and not trust_code:
        raise ConfigError(
            f"{shown}: {escape(foreign[0])} belongs to another user, and this command would run code of that folder. "
            "Read it, and add --trust-code if you want to run it"
        )


def _find_repository(place: str, shown: str, trust_code: bool) -> Path:
    """Return the folder with a repository at a commit, which is downloaded unless it is there."""
    found = _REPOSITORY.fullmatch(place)
    if found is None:
        raise ConfigError(f"{shown}: {_FORM}")
    owner, repository, commit = found.groups()
    address = f"https://github.com/{owner}/{repository}"
    if not _COMMIT.fullmatch(commit or ""):
        raise ConfigError(
            f"{shown}: names no commit, and so its code may change at any time. Write hub/{owner}/{repository}@COMMIT:"
            f"entry with the 40 digits of a commit that you have read; `git ls-remote {address} HEAD` prints the newest"
        )
    if not trust_code:
        raise ConfigError(
            f"{shown}: this command would run code of {address}/tree/{commit}. Read it, and add --trust-code if you "
            "want to run it"
        )
    folder = Path(torch.hub.get_dir()) / f"{owner}_{repository}_{commit}"
    if not folder.is_dir():
        _download(f"{address}/zipball/{commit}", folder, shown)
    return folder


def _download(address: str, folder: Path, shown: str) -> None:
    """Download and unpack a repository: all of it or nothing."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder.parent) as aside, time_out_connections():
            archive = Path(aside) / "archive.zip"
            torch.hub.download_url_to_file(address, str(archive), progress=False)
            unpacked = Path(aside) / "unpacked"
            with zipfile.ZipFile(archive) as content:
                content.extractall(unpacked)
            (top,) = unpacked.iterdir()
            top.replace(folder)
    except (OSError, ValueError, HTTPException, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"{shown}: can't be downloaded ({escape(' '.join(str(error).split()), 200)}). Get {address} where there is "
            f"a network, unpack it, and put its folder at {escape(folder)}"
        ) from error
