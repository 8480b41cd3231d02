"""Values that settings accept, options and environment variables, of any type and size, under commands that train.

A value either works or ends in a message.
"""

import argparse
import re
import socket
from collections.abc import Iterator
from functools import partial

from dist_train.distributed.launcher import LAUNCHER_VARIABLES
from dist_train.errors import ConfigError
from dist_train.settings.loader import load_config
from dist_train.settings.schema import Config, list_keys
from launch.cli import COMMANDS, load_command
from tests.conftest import ROOT
from tests.torture import runs
from tests.torture.bench import Bench
from tests.torture.cases import Case, Fault, judge
from tests.torture.mutations import VALUES, as_typed

QUICK, USUAL, WORKERS = 1, 700, 2
TEXTS = {name: as_typed(value) for name, value in VALUES.items() if name != "surrogate"}
FOREIGN = ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "SLURM_NTASKS", "TERM", "COLUMNS", "LINES", "TZ", "LANG")
"""Variables that libraries read, or of which ours are not found by their names."""


def cases(bench: Bench, seed: int) -> Iterator[Case]:  # noqa: ARG001
    """Yield accepted settings, then options, then variables."""
    settings = bench.path / "a.yaml"
    settings.write_text(runs.CONFIG, encoding="utf-8")
    for key in list_keys((Config,)):
        for what, text in TEXTS.items():
            override = f"{key}={text}"
            if _is_accepted(str(settings), override):
                yield Case(f"{key} is {what}", partial(_run, command=("-m", "dist_train", "a.yaml", override)))
    for name, action in _options():
        for what, text in TEXTS.items():
            given = f"{action.option_strings[-1]}={text}"
            command = (*_NEEDED[name], given)
            yield Case(
                f"{name} {action.option_strings[-1]} is {what}", partial(_run, command=("-m", "launch", *command))
            )
    for name in sorted(_variables()):
        for what, text in TEXTS.items():
            if (name, what) == ("WORLD_SIZE", "number as text"):
                continue  # it waits for seven ranks
            env = {name: text.replace("\0", "")}
            yield Case(f"${name} is {what}", partial(_run, command=("-m", "dist_train", "a.yaml"), env=env))


def _is_accepted(settings: str, override: str) -> bool:
    try:
        load_config(settings, [override])
    except ConfigError:
        return False
    return True


_NEEDED: dict[str, tuple[str, ...]] = {
    **{name: (name, "run") for name in COMMANDS},
    "train": ("train", "a.yaml", "--print-config"),
    "submit": ("submit", "a.yaml", "--dry-run"),
    "sweep": ("sweep", "a.yaml", "optim.lr=0.1,0.2", "--dry-run"),
    "drill": ("drill", "missing.yaml"),
    "diff": ("diff", "run", "run"),
    "ckpt": ("ckpt", "ls", "run"),
}
"""The shortest command line of each command; a drill without settings is refused."""


def _options() -> Iterator[tuple[str, argparse.Action]]:
    """The options with a value, of each command."""
    for name in COMMANDS:
        parser = argparse.ArgumentParser()
        load_command(name).add_arguments(parser)
        yield from ((name, action) for action in parser._actions if action.option_strings and action.nargs != 0)


def _variables() -> set[str]:
    """The environment variables that the source names."""
    text = "".join(path.read_text() for folder in ("dist_train", "launch") for path in (ROOT / folder).rglob("*.py"))
    ours = set(re.findall(r'"((?:DIST_TRAIN|XDG|TORCHELASTIC|SLURM|LOCAL|MASTER|GROUP|ROLE)_[A-Z_]+)"', text))
    return {*ours, *FOREIGN, *LAUNCHER_VARIABLES}


def _launcher() -> dict[str, str]:
    """The variables of a launcher of one rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return dict(zip(LAUNCHER_VARIABLES, ("0", "1", "0", "1", "127.0.0.1", str(port)), strict=True))


def _run(bench: Bench, command: tuple[str, ...], env: dict[str, str] | None = None) -> Iterator[Fault]:
    with bench.folder() as folder:
        (folder / "a.yaml").write_text(runs.CONFIG, encoding="utf-8")
        if set(LAUNCHER_VARIABLES) & (env or {}).keys():
            env = {**_launcher(), **(env or {})}
        outcome = bench.run(*command, *([runs.WITHOUT_CURVES] if "dist_train" in command else []), cwd=folder, env=env)
        yield from judge(outcome, {0, 2, 4, 75})
