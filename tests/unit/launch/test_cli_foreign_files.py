"""Every command that reads runs ends with a message and no traceback, whatever is where a file of a run should be."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dist_train.run_dir import RunDir
from tests.unit.launch.command import run_command
from tests.unit.launch.foreign_files import (
    REPLACEMENTS,
    WRONG_VALUES,
    leave_everything,
    leave_whole_sweep,
    list_leaves,
    list_paths,
    replace_leaf,
)
from tests.unit.launch.run_files import leave_run

pytestmark = pytest.mark.usefixtures("runs_dir")
COMMANDS = (
    *("status", "status --json", "status runs/a", "status runs/a --json", "status 12", "logs runs/a", "logs runs/a -f"),
    *("logs runs/a --rank 0 --lines 2", "cancel runs/a", "postmortem runs/a", "ckpt ls runs/a"),
    *("diff runs/a runs/whole", "diff runs/whole runs/a"),
)
OF_SWEEP = ("status", "status runs/x.sweep", "status runs/x.sweep --json", "cancel runs/x.sweep", "status 20")
SECONDS = 10


@pytest.fixture(autouse=True)
def limited() -> Iterator[None]:
    """A command that waits fails the test."""

    def fail(number: int, frame: object) -> None:  # noqa: ARG001
        pytest.fail(f"takes longer than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, fail)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def check(capfd: pytest.CaptureFixture[str], commands: tuple[str, ...], what: object) -> dict[str, str]:
    """Run commands and return their outputs."""
    outputs = {}
    for command in commands:
        signal.alarm(SECONDS)
        code, outputs[command] = run_command(capfd, *command.split())
        assert code in (0, 1, 2), f"{what}: {command}: exit code {code}"
        assert "Traceback" not in outputs[command], f"{what}: {command}: {outputs[command]}"
        assert outputs[command].strip() or command.startswith("logs"), f"{what}: {command}: no output"
    return outputs


def replace(path: Path, replacement: str) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    REPLACEMENTS[replacement](path)


@pytest.mark.parametrize("replacement", REPLACEMENTS)
def test_something_else_is_where_a_file_was(capfd: pytest.CaptureFixture[str], replacement: str) -> None:
    leave_everything("runs/whole")
    for name in list_paths(leave_everything("runs/a")):
        replace(Path("runs") / name, replacement)
        outputs = check(capfd, COMMANDS, name)
        assert "runs/whole" in outputs["status"]
        remove(Path("runs/a"))
        leave_everything("runs/a")


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("replacement", REPLACEMENTS)
def test_something_else_is_where_a_file_of_a_sweep_was(capfd: pytest.CaptureFixture[str], replacement: str) -> None:
    leave_run("runs/whole")
    for name in list_paths(leave_whole_sweep("runs/x.sweep")):
        if "0-lr" not in name.parts:
            replace(Path("runs") / name, replacement)
            assert "runs/whole" in check(capfd, OF_SWEEP, name)["status"]
            remove(Path("runs/x.sweep"))
            leave_whole_sweep("runs/x.sweep")


JSON_FILES = ("status.json", "metrics.jsonl", "ledger.jsonl", "diagnostics/verdict.json", "jobs/1/job.json")
MORE_JSON_FILES = ("diagnostics/failure_rank_0.json", "jobs/starts.jsonl", "checkpoints/step_00000003/manifest.json")


@pytest.mark.parametrize("name", [*JSON_FILES, *MORE_JSON_FILES])
def test_a_value_of_another_type(capfd: pytest.CaptureFixture[str], name: str) -> None:
    leave_everything("runs/whole")
    path = leave_everything("runs/a") / name
    *before, last = path.read_text().splitlines() if name.endswith("l") else [path.read_text()]
    found = json.loads(last)
    for keys in list_leaves(found):
        for value in WRONG_VALUES:
            path.write_text("\n".join([*before, json.dumps(replace_leaf(found, keys, value))]) + "\n")
            check(capfd, affected(name), (name, keys, value))


def affected(name: str) -> tuple[str, ...]:
    """The commands that read a file."""
    words = {
        "ledger": ("diff runs/a runs/whole",),
        "checkpoints": ("ckpt ls runs/a",),
        "jobs": ("status 12", "logs runs/a -f"),
    }
    return next(
        (found for word, found in words.items() if word in name), ("status", "status runs/a", "postmortem runs/a")
    )


def test_a_value_of_another_type_in_a_sweep(capfd: pytest.CaptureFixture[str]) -> None:
    sweep = leave_whole_sweep("runs/x.sweep")
    leave_run("runs/whole")
    for name in ("sweep.json", "sweep.lock", "jobs/1/job.json"):
        before = (sweep / name).read_text()
        for keys in list_leaves(json.loads(before)):
            for value in WRONG_VALUES:
                (sweep / name).write_text(json.dumps(replace_leaf(json.loads(before), keys, value)))
                assert "runs/whole" in check(capfd, OF_SWEEP[:2], (name, keys, value))["status"]
        (sweep / name).write_text(before)


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_a_directory_that_can_not_be_read(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    """As root may read everything, the calls that look at files fail here."""
    leave_everything("runs/whole")
    run = leave_everything("runs/a")
    for name in ("", "diagnostics", "checkpoints", "jobs", "logs"):
        with monkeypatch.context() as patch:
            refuse(patch, run.absolute() / name, error)
            outputs = check(capfd, COMMANDS, name)
        rows = {row.split()[0]: row for row in outputs["status"].splitlines()}
        assert "runs/whole" in rows
        assert f"{name or 'read'}: {error.strerror}" in rows["runs/a"]
        assert str(error.strerror) not in rows["runs/whole"]


def refuse(patch: pytest.MonkeyPatch, directory: Path, error: OSError) -> None:
    """Let every call that names something below a directory, or lists it, fail with an error."""

    def wrap(module: Any, name: str, also_itself: bool) -> None:
        call = getattr(module, name)

        def refusing(path: Any = ".", *args: Any, **more: Any) -> Any:
            if isinstance(path, str | os.PathLike):
                absolute = Path(os.path.abspath(path))  # noqa: PTH100 (must not look at files)
                if directory in absolute.parents or (also_itself and absolute == directory):
                    raise type(error)(error.errno, error.strerror, str(path))
            return call(path, *args, **more)

        patch.setattr(module, name, refusing)

    import io

    for name in ("open", "stat", "lstat", "readlink"):
        wrap(os, name, also_itself=False)
    for name in ("scandir", "listdir"):
        wrap(os, name, also_itself=True)
    wrap(io, "open", also_itself=False)


NAMES = [
    b"a" * 255,
    b"\xff\xfe",
    "\u202eabc".encode(),
    b"a\nb",
    b"\x1b[31m",
    b"-",
    b"--json",
    b" ",
    b"$HOME",
    b"~",
    b"%s",
]


def test_names_of_all_kinds(capfd: pytest.CaptureFixture[str]) -> None:
    for name in NAMES:
        leave_run(Path("runs") / os.fsdecode(name))
        check(capfd, ("status",), name)
        for command in ("status", "logs", "cancel", "postmortem", "ckpt ls"):
            code, output = run_command(capfd, *command.split(), "--", f"runs/{os.fsdecode(name)}")
            assert (code in (0, 1, 2), "Traceback" in output) == (True, False), (command, name, output)
    for name in (b"a" * 5000, b"a/" * 2000 + b"b", b"runs/" + b"a" * 256, b""):
        check(capfd, tuple(f"{command} {os.fsdecode(name)}" for command in ("status", "logs", "cancel")), name)


def test_a_run_without_its_status_is_still_a_run(capfd: pytest.CaptureFixture[str]) -> None:
    RunDir(leave_everything("runs/a")).status.unlink()
    assert "runs/a" in run_command(capfd, "status")[1]


@pytest.mark.parametrize("kind", ["file", "named pipe", "link to itself", "link to nothing"])
def test_runs_is_no_directory(capfd: pytest.CaptureFixture[str], kind: str) -> None:
    Path("runs").rmdir()
    {**REPLACEMENTS, "file": REPLACEMENTS["empty"]}[kind](Path("runs"))
    check(capfd, ("status", "status 12", "status a", "cancel 12"), kind)
