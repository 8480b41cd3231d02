"""The checkpoints of a run.

    dist-train ckpt ls runs/digits                    every checkpoint, its size, age and links
    dist-train ckpt verify runs/digits                read every byte; exit code 1 if one is damaged
    dist-train ckpt prune runs/digits --keep-last 1   remove the older ones, except those that links lead to

`prune` keeps the newest whole ones, and is refused while the run trains.
"""

import argparse
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from launch.arguments import number_from

if TYPE_CHECKING:
    from dist_train.checkpoint.store import Entry, Store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("ls", "verify", "prune"), help="what to do")
    parser.add_argument("run", metavar="RUN", type=Path, help="directory of a run, e.g. runs/digits")
    parser.add_argument("--keep-last", type=number_from(1), metavar="N", help="prune: how many stay; default 1")


def run(options: argparse.Namespace) -> int:
    from dist_train.checkpoint.store import Store
    from dist_train.errors import CheckpointError, ConfigError
    from dist_train.run_dir import RunDir

    if options.keep_last and options.action != "prune":
        raise ConfigError(f"--keep-last belongs to prune, not to {options.action}")
    directory = RunDir(options.run)
    store = Store(directory.checkpoints)
    if not store.steps():
        raise CheckpointError(f"{options.run}: no checkpoint there; give a directory below runs/")
    if options.action == "prune":
        directory.claim(anew=False)
        try:
            return _prune(store, options.keep_last or 1)
        finally:
            directory.release()
    entries = store.entries(verify=options.action == "verify")
    for entry in entries:
        print(_row(entry, options.action == "verify"))
    return 1 if any(entry.fault for entry in entries) else 0


def _prune(store: "Store", keep_last: int) -> int:
    from dist_train.errors import CheckpointError

    before = store.entries(verify=True)
    if all(entry.fault for entry in before):
        raise CheckpointError(
            f"{store.directory}: none of the checkpoints is whole, and nothing was removed:\n"
            + "".join(f"  {entry.fault}\n" for entry in before)
            + "Put back whole ones, or start the run anew with run.resume=never, which moves it aside."
        )
    for entry in before:
        if entry.fault:
            print(f"{entry.fault}; set aside as {store.quarantine(entry.step, entry.fault)}")
    store.mend_links(None)
    store.prune(keep_last)
    kept = store.steps()
    print(f"kept {', '.join(map(str, kept))}; removed {sum(not e.fault for e in before) - len(kept)}")
    return 0


def _row(entry: "Entry", is_verified: bool) -> str:
    when = datetime.fromtimestamp(entry.time).astimezone().isoformat(" ", timespec="seconds")
    links = f"  {' '.join(entry.links)}" if entry.links else ""
    verdict = f"  {entry.fault or 'whole'}" if is_verified else ""
    return f"step {entry.step:>9}  {entry.bytes / 1e6:>9.2f} MB  {when}{links}{verdict}"
