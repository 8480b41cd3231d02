"""Settings files and command lines: each key dropped, renamed, nested, doubled and of another type, and damaged YAML.

All are read by `--print-config`, in one process. What it accepts is printed, and has to load as the same settings.
"""

import contextlib
import io
import random
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from dist_train.__main__ import main
from dist_train.recipes import list_recipes
from dist_train.settings.schema import Config, list_keys
from dist_train.system.exit import run_guarded
from tests.conftest import ROOT
from tests.torture.bench import Bench
from tests.torture.cases import HANG, Case, Fault, Outcome, judge
from tests.torture.mutations import HOSTILE, VALUES, as_typed, damaged, mutations

QUICK, USUAL = 100, 4200
DAMAGED_COPIES = 400  # of each recipe
RECIPES = [*list_recipes().values(), ROOT / "template" / "settings.yaml"]
TINY = """
data: {name: synthetic, num_train: 24, num_test: 8, global_batch: 8, shape: [1, 8, 8]}
model: {name: mnist_cnn}
optim: {name: sgd, lr: 0.01}
train: {max_steps: 2}
log: {tensorboard: false}
"""
LINES: dict[str, list[str]] = {
    "no equals sign": ["train.epochs"],
    "no key": ["=1"],
    "only dots": ["...=1"],
    "double dot": ["train..epochs=1"],
    "a section": ["train=1"],
    "below a value": ["train.epochs.more=1"],
    "a hostile key": [f"{HOSTILE}=1"],
    "a long key": ["a" * 10**5 + "=1"],
    "many parts": [".".join("a" * 5000) + "=1"],
    "the same twice": ["train.epochs=1", "train.epochs=2"],
    "a section and its key": ["data.augment={flip: true}", "data.augment.flip=true"],
    "many overrides": [f"train.epochs{number}=1" for number in range(3000)],
    "unknown option": ["--no-such-option"],
    "a surrogate": ["run.name=\udcff"],
    "a long list": [f"data.normalize.mean=[{'0.5, ' * 10**5}]"],
    "deep": ["data.shape=" + "[" * 10**5],
}


def cases(bench: Bench, seed: int) -> Iterator[Case]:  # noqa: ARG001
    """Yield all cases; `seed` chooses the places of damage."""
    for recipe in RECIPES:
        text = recipe.read_text(encoding="utf-8")
        for what, tree in mutations(yaml.safe_load(text)):
            yield Case(f"{recipe.name}: {what}", partial(_read, content=_dump(tree)))
        lines = text.splitlines(keepends=True)
        for number, line in enumerate(lines, 1):
            doubled = "".join([*lines[:number], line, *lines[number:]]).encode()
            yield Case(f"{recipe.name}: line {number} twice", partial(_read, content=doubled))
        for number in range(DAMAGED_COPIES):
            draw = random.Random(f"{seed} {recipe.name} {number}")  # noqa: S311
            what, content = damaged(text.encode(), draw)
            yield Case(f"{recipe.name} {number}: {what}", partial(_read, content=content))
    yield Case("a list of 1 MB", partial(_read, content=TINY.encode() + b"eval: [" + b"1," * 490_000 + b"]\n"))
    for what, overrides in LINES.items():
        yield Case(f"command line: {what}", partial(_read, overrides=overrides))
    for key in list_keys((Config,)):
        for what, value in VALUES.items():
            yield Case(f"{key} is {what}", partial(_read, overrides=[f"{key}={as_typed(value)}"]))


def _dump(tree: Any) -> bytes:
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode("utf-8", "surrogateescape")


def _read(bench: Bench, content: bytes = TINY.encode(), overrides: list[str] | None = None) -> Iterator[Fault]:
    with bench.folder() as folder:
        for name in ("nets.py", "sets.py"):  # what the template's settings refer to
            (folder / name).symlink_to(ROOT / "template" / name)
        file = folder / "a.yaml"
        file.write_bytes(content)
        outcome = print_config(file, overrides or [])
        yield from judge(outcome, {0, 2}, [file, "command line", "usage:"])
        if outcome.code == 0:
            again = folder / "again.yaml"
            again.write_text(outcome.output, encoding="utf-8", errors="surrogateescape")
            if (printed := print_config(again, [])) != outcome:
                yield Fault("false claim", f"prints settings that load as others\n{printed.tail}\n{outcome.tail}")


class _TooLongError(BaseException):
    """Not an Exception, so that no handler of the program takes it for its own."""


def print_config(file: Path, overrides: list[str]) -> Outcome:
    """Run `--print-config` in this process."""

    def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise _TooLongError

    printed = io.StringIO()
    handler = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, HANG)
    code: int | None = None
    try:
        with (
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
            contextlib.suppress(_TooLongError),
        ):
            code = run_guarded(lambda: main([str(file), *overrides, "--print-config"]))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    return Outcome(code, printed.getvalue())
