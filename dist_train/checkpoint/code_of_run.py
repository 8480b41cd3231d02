"""Let the settings of a run name the copies of its code, if that code is trusted."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dist_train.errors import ConfigError
from dist_train.own_code.copies import Copies, read_copies
from dist_train.settings.loading.references import change_references, list_references
from dist_train.settings.schema import Config
from dist_train.system.escape import escape

_log = logging.getLogger(__name__)


@contextmanager
def code_of_run(config: Config, run: Path, trust_code: bool) -> Iterator[Config]:
    """A block in which the settings of a run name the copies of its code; warn of originals that have changed.

    Args:
        config: settings of the run.
        run: its directory.
        trust_code: also use code that belongs to another user.

    Raises:
        ConfigError: the code belongs to another user, or the copies are not what the run has written.
    """
    references = list_references(config)
    if not references:
        yield config
        return
    copies = read_copies(run / "code")
    _check_owners(run, references, copies, trust_code)
    if copies is None:
        _log.warning("%s: has no copies of its code; the code is taken from where it was", escape(run))
        yield config
        return
    copies.check()
    if changed := copies.find_changes():
        _log.warning("the code that the run has kept is used; it has changed since in %s", escape(", ".join(changed)))
    with copies.in_use():
        yield change_references(config, copies.translate)


def _check_owners(run: Path, references: list[str], copies: Copies | None, trust_code: bool) -> None:
    """Refuse to run code that belongs to another user, unless it is trusted; list what would run."""
    kept = [copies.folder, copies.folder / "manifest.json", *copies.list_files()] if copies else []
    if not any(is_foreign(path) for path in (run, run / "config.yaml", *kept)):
        return
    known = copies.references if copies else {}
    shown = [*(copies.list_files() if copies else ()), *(text for text in references if text not in known)]
    if not trust_code:
        listed = "\n".join(f"  {escape(each)}" for each in shown)
        raise ConfigError(
            f"{escape(run)}: belongs to another user, and this command would run code of that run:\n{listed}\n"
            "Read it, and add --trust-code if you want to run it"
        )
    for each in shown:
        _log.warning("%s: belongs to another user; runs %s", escape(run), escape(each))


def is_foreign(path: Path) -> bool:
    """Whether a file, or what it links to, belongs to another user."""
    try:
        return any(found.st_uid != os.geteuid() for found in (path.lstat(), path.stat()))
    except OSError:
        return False  # it is missing, which its reader reports
