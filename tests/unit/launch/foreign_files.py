"""Ways in which files of a run can be unlike what a run writes, for the tests of commands that read them."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dist_train.checkpoint.store import Store
from dist_train.diagnostics.failure import Failure
from dist_train.diagnostics.heartbeat import HeartbeatFile, RankProcess
from dist_train.diagnostics.verdict import Verdict
from dist_train.run_dir import RunDir
from tests.unit.launch.run_files import leave_job, leave_ledger, leave_run, leave_start, leave_sweep

SPARSE = 100 * 2**20
"""Bytes of a large file that takes no space."""


def leave_everything(path: str | Path, state: str = "failed") -> Path:
    """Write a run with each file that a command reads."""
    run = leave_run(path, state, accuracy=0.5, error="x", job_id="12", launcher="x elsewhere 1 2")
    process = RankProcess(0, 1, "elsewhere", 1, 1, 1, "dist-train train x.yaml")
    diagnostics = RunDir(run).diagnostics
    beats = HeartbeatFile(diagnostics, process)
    Failure.from_heartbeat(beats.read(), "exception", "ValueError: x", "Traceback\n  File x").write(diagnostics)
    beats.close()
    verdict = Verdict(
        0, 1, "elsewhere", 1, "forward", 1, "exception", "ValueError: x", [], "dist-train train", 1, "now"
    )
    (diagnostics / "verdict.json").write_text(json.dumps(verdict.to_dict()))
    (diagnostics / "stacks_rank_0.txt").write_text("Stacks of rank 0(1)\n")
    leave_job(run, 1, "12", when="2029-01-01T10:00:00+00:00")
    leave_start(run, "12", run / "jobs" / "slurm-12.out", when="2029-01-01T10:00:00+00:00")
    (run / "jobs" / "slurm-12.out").write_text("output\n")
    leave_ledger(run / "of ledger")
    (run / "of ledger" / "ledger.jsonl").rename(run / "ledger.jsonl")
    (run / "of ledger").rmdir()
    Store(run / "checkpoints").save(3, {"model.pt": b"x", "training.pt": b"y"}, "ab" * 32)
    (run / "env.json").write_text("{}")
    return run


def leave_whole_sweep(path: str) -> Path:
    """Write a sweep with one trial and each file that a command reads."""
    sweep = leave_sweep(path, 0.1)
    leave_everything(sweep / "0-lr")
    leave_job(sweep, 1, "20", tasks=(0,))
    (sweep / "sweep.lock").write_text(json.dumps({"host": socket.gethostname(), "pid": 1, "start": 1}))
    return sweep


def list_paths(run: Path) -> list[Path]:
    """Return the files and directories of a run or a sweep, and itself, relative to its parent."""
    return [Path(run.name), *sorted(path.relative_to(run.parent) for path in run.rglob("*") if not path.is_symlink())]


def put_directory(path: Path) -> None:
    path.mkdir()


def put_pipe(path: Path) -> None:
    os.mkfifo(path)


def put_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(os.path.relpath(path))  # a path of a socket has at most 107 bytes


def put_link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def put_nothing(path: Path) -> None:
    pass


def put(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


def put_sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(SPARSE)


REPLACEMENTS: dict[str, Callable[[Path], None]] = {
    "missing": put_nothing,
    "directory": put_directory,
    "named pipe": put_pipe,
    "socket": put_socket,
    "link to nothing": put_link("gone"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "endless device": put_link("/dev/zero"),
    "empty": put(b""),
    "sparse": put_sparse,
    "binary": put(bytes(range(256)) * 100),
    "not UTF-8": put(b'{"state": "\xff"}\n'),
    "list": put(b"[]\n"),
    "deep list": put(b"[" * 100_000),
    "deep object": put(b'{"a":' * 100_000),
    "large number": put(b'{"step": ' + b"9" * 5000 + b"}"),
    "cut": put(b'{"state": "runn'),
}
"""What may be where a file or a directory of a run was."""

WRONG_VALUES: tuple[Any, ...] = (
    *("text", "", "\0", "\ud800", [], [1], {}, {"a": 1}, None, True, -1, 0, 2**31, 2**62, 2**63, 10**400),
    *(float("nan"), float("inf"), -1e308, 1e308, 5e-324, "9999-12-31T23:59:59+00:00", "0001-01-01T00:00:00+00:00"),
)
"""What may be where a value of JSON was."""


def list_leaves(found: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the keys that lead to each value in a JSON document, values that hold others included."""
    if keys:
        yield keys
    items = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    for key, value in items:
        yield from list_leaves(value, (*keys, key))


def replace_leaf(found: Any, keys: tuple[Any, ...], value: Any) -> Any:
    """Return a JSON document with another value at `keys`."""
    if not keys:
        return value
    changed = dict(found) if isinstance(found, dict) else list(found)
    changed[keys[0]] = replace_leaf(found[keys[0]], keys[1:], value)
    return changed
