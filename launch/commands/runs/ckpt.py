"""List, verify or remove the checkpoints of a run.

    dist-train ckpt ls runs/digits                    list the checkpoints: size, time, links
    dist-train ckpt verify runs/digits                check all that a resume or an evaluation would refuse
    dist-train ckpt prune runs/digits --keep-last 1   remove old checkpoints, except those that a link points to

`verify` reads every byte; its exit code is 1 if one of the checkpoints would be refused. `prune` keeps the newest
undamaged checkpoints. It is refused while the run trains.
"""

import argparse
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from dist_train.run_arguments import TRUST_HELP
from dist_train.system.escape import escape
from dist_train.system.exit import FAILED
from launch.arguments import number_from
from launch.local.training_command import protect_imports
from launch.sweeps.sweep_dir import refuse_sweep

if TYPE_CHECKING:
    from dist_train.checkpoint.store import CheckpointInfo, Store

MAX_LINE = 8192  # characters of a line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("ls", "verify", "prune"), help="list, verify or remove checkpoints")
    parser.add_argument("run", metavar="RUN", type=Path, help="directory of a run, e.g. runs/digits")
    parser.add_argument(
        "--keep-last", type=number_from(1), metavar="N", help="prune: number of checkpoints to keep; default 1"
    )
    parser.add_argument("--trust-code", action="store_true", help=f"verify: {TRUST_HELP}")


def run(options: argparse.Namespace) -> int:
    from dist_train.checkpoint.store import Store
    from dist_train.errors import CheckpointError, ConfigError
    from dist_train.run_dir import RunDir

    refuse_sweep(options.run)
    if options.keep_last and options.action != "prune":
        raise ConfigError(f"--keep-last is an option of prune, not of {options.action}")
    if options.action == "verify":
        return _verify(options.run, options.trust_code)
    directory = RunDir(options.run)
    store = Store(directory.checkpoints)
    if not store.steps():
        run = escape(options.run)
        raise CheckpointError(f"{run}: has no checkpoints; give the directory of a run, e.g. runs/digits")
    if options.action == "prune":
        directory.claim(fresh_start=False)
        try:
            return _prune(store, options.keep_last or 1)
        finally:
            directory.release()
    entries = store.entries(verify=False)
    for entry in entries:
        print(_format_row(entry))
    return 1 if any(entry.unreadable for entry in entries) else 0


def _verify(run: Path, trust_code: bool) -> int:
    """Verify in a process of its own, because that builds the network, and `dist-train` never imports torch."""
    command = [sys.executable, "-m", "dist_train.training.verification"]
    command += [*(["--trust-code"] if trust_code else []), "--", str(run)]
    sys.stdout.flush()
    code = subprocess.call(command, env={**os.environ, **protect_imports()})  # noqa: S603 (this Python)
    return code if code >= 0 else FAILED


def _prune(store: "Store", keep_last: int) -> int:
    from dist_train.errors import CheckpointError

    before = store.entries(verify=True)
    if unreadable := next((entry.unreadable for entry in before if entry.unreadable), None):
        raise CheckpointError(f"{escape(unreadable, MAX_LINE)}; nothing was removed")
    if all(entry.fault for entry in before):
        raise CheckpointError(
            f"{escape(store.directory)}: all checkpoints are damaged; nothing was removed:\n"
            + "".join(f"  {escape(entry.fault, MAX_LINE)}\n" for entry in before)
            + "Restore an undamaged checkpoint, or start again with run.resume=never, which moves this run aside."
        )
    for entry in before:
        if entry.fault:
            print(escape(f"{entry.fault}; set aside as {store.quarantine(entry.step, entry.fault)}", MAX_LINE))
    store.repair_links(None)
    store.prune(keep_last)
    kept = store.steps()
    print(f"kept {', '.join(map(str, kept))}; removed {sum(not e.fault for e in before) - len(kept)}")
    return 0


def _format_row(entry: "CheckpointInfo") -> str:
    when = datetime.fromtimestamp(entry.time).astimezone().isoformat(" ", timespec="seconds")
    links = f"  {' '.join(entry.links)}" if entry.links else ""
    result = f"  {entry.unreadable}" if entry.unreadable else ""
    return escape(f"step {entry.step:>9}  {entry.bytes / 1e6:>9.2f} MB  {when}{links}{result}", MAX_LINE)
