"""Run directories: each file and folder of one damaged in each way, and then every command of the launcher.

Nothing trains in such a directory: a command sends no signal, and those that only read change nothing.
"""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import yaml

from launch.cli import COMMANDS
from tests.conftest import ROOT
from tests.torture import runs
from tests.torture.bench import Bench
from tests.torture.cases import Case, Fault, judge
from tests.torture.mutations import HOSTILE, damaged, mutations

QUICK, USUAL, WORKERS = 1, 800, 2
RUN = "runs/run"
LAUNCH = (str(ROOT / "tests" / "programs" / "without_signals.py"), "launch")
# Those of the launcher that read a run get its directory; `{}` stands for it.
ARGUMENTS: dict[str, list[list[str]]] = {
    "status": [["{}"], ["{}", "--json"], []],
    "logs": [["{}"], ["{}", "--rank", "0", "--lines", "3"]],
    "diff": [["{}", "whole"], ["whole", "{}"]],
    "ckpt": [["ls", "{}"], ["verify", "{}"], ["prune", "{}"]],
    **{name: [] for name in ("train", "submit", "sweep", "drill")},  # they read settings; a resume is below
}
READING = {"status", "logs", "diff", "postmortem", "ckpt ls", "ckpt verify", "evaluate"}
# 1 is the answer of some: damaged, different, failed.
CODES = {"diff": {0, 1, 2}, "postmortem": {0, 1, 2}, "ckpt": {0, 1, 2}, "logs": {0, 2}}
IN_THE_PLACE_OF_A_LINK = "is a directory in the place of a link; remove it"
"""A run that is done says so, and exits with 1."""


def commands() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every command, with its arguments for the fork server."""
    for name in COMMANDS:
        for arguments in ARGUMENTS.get(name, [["{}"]]):
            given = [argument.format(RUN) for argument in arguments]
            yield " ".join([name, *given]), (*LAUNCH, name, *given)
    yield "evaluate", ("-m", "dist_train.evaluate", RUN)
    yield "resume", tuple(runs.train_command(RUN))


def _of_another(path: Path) -> None:
    path.chmod(0o700 if path.is_dir() else 0o600)
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)


def _replace(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        make(path)

    return change


def _make_huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**30)


Damage = Callable[[Path], object]
DAMAGES: dict[str, Callable[[Path], object]] = {
    "is missing": _replace(lambda path: None),  # noqa: ARG005
    "is empty": _replace(Path.touch),
    "is a directory": _replace(lambda path: (path / "x").mkdir(parents=True)),
    "is a pipe": _replace(os.mkfifo),
    "links to itself": _replace(lambda path: path.symlink_to(path.name)),
    "links to nothing": _replace(lambda path: path.symlink_to("nowhere")),
    "links to a device": _replace(lambda path: path.symlink_to("/dev/zero")),
    "links to its folder": _replace(lambda path: path.symlink_to(".")),
    "has mode 000": lambda path: path.chmod(0),
    "is of another user": _of_another,
    "is random": _replace(lambda path: path.write_bytes(random.Random(path.name).randbytes(4000))),  # noqa: S311
    "is zeros": _replace(lambda path: path.write_bytes(bytes(4000))),
    "is one long line": _replace(lambda path: path.write_bytes(b"x" * 3 * 10**6)),
    "is deep": _replace(lambda path: path.write_bytes(b'{"a": ' * 10**5 + b"\n")),
    "is huge": _replace(_make_huge),
    "is hostile": _replace(lambda path: path.write_text(HOSTILE)),
}
STRANGERS = (
    HOSTILE.replace("\0", ""),
    *("step_00000009", "rank_9.log", "step_99999999999999999999", "a\udcff", "n" * 255),
)
"""Names of files and folders that are not of the run."""


def cases(bench: Bench, seed: int) -> Iterator[Case]:
    """Yield each replaced file under each command, and each changed content under one that the seed chooses."""
    run, draw = runs.failed_run(bench), random.Random(seed)  # noqa: S311
    every = list(commands())
    chosen = [
        *((damage, command) for damage in _list_replaced(run) for command in every),
        *((damage, draw.choice(every)) for damage in _list_changed(run, seed)),
    ]
    for (what, damage), (name, command) in chosen:
        yield Case(f"{what} / {name}", partial(_run, damage=damage, name=name, command=command))


def _list_replaced(run: Path) -> Iterator[tuple[str, Damage]]:
    """Each file and folder of a directory like `run` replaced in each way, and the function that does it."""
    for path in sorted(run.rglob("*")):
        place = str(path.relative_to(run))
        for what, damage in DAMAGES.items():
            yield f"{place} {what}", partial(_at, place, damage)
        if path.is_dir():
            for name in STRANGERS:
                yield f"{place} has a file {name[:30]!r}", partial(_at, f"{place}/{name}", Path.touch)
                yield f"{place} has a folder {name[:30]!r}", partial(_at, f"{place}/{name}", Path.mkdir)


def _list_changed(run: Path, seed: int) -> Iterator[tuple[str, Damage]]:
    """Each file with other content: random damage, and values of every type."""
    for path in filter(Path.is_file, sorted(run.rglob("*"))):
        place = str(path.relative_to(run))
        for number in range(20):
            what, content = damaged(path.read_bytes(), random.Random(f"{seed} {place} {number}"))  # noqa: S311
            yield f"{place} {number}: {what}", partial(_at, place, partial(_write, content=content))
        for what, content in _edited(path):
            yield f"{place}: {what}", partial(_at, place, partial(_write, content=content))


def _at(place: str, damage: Damage, run: Path) -> None:
    damage(run / place)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _edited(path: Path) -> Iterator[tuple[str, bytes]]:
    """A file of JSON or YAML with each value changed, in its last line if it has many."""
    if path.suffix not in (".json", ".jsonl", ".yaml", ".lock"):
        return
    content = path.read_bytes()
    before, last = (
        (content[:at], content[at:])
        if (at := content.rstrip(b"\n").rfind(b"\n") + 1) and path.suffix == ".jsonl"
        else (b"", content)
    )
    is_yaml = path.suffix == ".yaml"
    for what, tree in mutations(yaml.safe_load(last) if is_yaml else json.loads(last)):
        text = yaml.safe_dump(tree, sort_keys=False) if is_yaml else json.dumps(tree)
        yield what, before + text.encode() + b"\n"


def _run(bench: Bench, damage: Damage, name: str, command: tuple[str, ...]) -> Iterator[Fault]:
    with bench.folder() as folder:
        run = folder / RUN
        shutil.copytree(runs.failed_run(bench), run, symlinks=True)
        (folder / "whole").symlink_to(runs.reference(bench))
        (folder / "a.yaml").write_text(runs.CONFIG, encoding="utf-8")
        damage(run)
        before, whole_lines = _list(run), _lines(run)
        outcome = bench.run(*command, cwd=folder)
        first, second = (*name.split(), "")[:2]
        codes = CODES.get(first, {0, 2}) | ({1} if IN_THE_PLACE_OF_A_LINK in outcome.errors else set())
        yield from judge(outcome, codes, ["run", "usage:"], is_copy=first == "logs")
        if "SIGNAL" in outcome.output:
            yield Fault("signal", f"where nothing runs\n{outcome.tail}")
        if READING & {first, f"{first} {second}"} and (now := _list(run)) != before:
            changed = [path for path in {**before, **now} if before.get(path) != now.get(path)]
            yield Fault("loss", f"a command that reads has changed {changed}\n{outcome.tail}")
        if lost := whole_lines - _lines(folder):
            yield Fault("loss", f"{len(lost)} whole lines are gone, such as {min(lost)!r}\n{outcome.tail}")
        if name == "resume" and outcome.code == 0:
            yield from runs.check_done(run, runs.reference(bench), outcome.tail)


def _list(run: Path) -> dict[str, tuple[int, ...]]:
    """Type, size and time of each path below a directory."""
    found: dict[str, tuple[int, ...]] = {}
    for above, folders, files in os.walk(run):
        for name in (*folders, *files):
            state = os.lstat(Path(above, name))
            found[os.path.join(above, name)] = (state.st_mode, state.st_size, state.st_mtime_ns)  # noqa: PTH118
    return found


def _lines(folder: Path) -> set[tuple[str, ...]]:
    """File, step, kind and split of the whole lines of ledgers and metrics, up to the newest checkpoint."""
    return {
        (name, *(str(line.get(key)) for key in ("step", "kind", "split")))
        for name in ("ledger.jsonl", "metrics.jsonl")
        for path in folder.rglob(f"{name}*")
        for line in runs.lines(path)
        if line.get("step") in range(1, runs.SAVED + 1)
    }
