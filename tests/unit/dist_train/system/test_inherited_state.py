"""Every state of the standard streams, of the locale and of inherited signals lets a command run and a run train."""

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dist_train.system.inherited_state import ignore_output_errors
from tests.conftest import ROOT

SAYS = """
import os, sys
from dist_train.system.exit import leave, run_guarded
from dist_train.system.inherited_state import prepare_streams
def main():
    file = open(sys.argv[1], "w")
    assert file.fileno() > 2, file.fileno()
    assert None not in (sys.stdin, sys.stdout, sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        for _ in range(3):
            print("caf\\u00e9 \\udcff \\u0394" * 2000, file=stream, flush=True)
    os.write(file.fileno(), b"done")
    return 0
if "training" in sys.argv: prepare_streams()
leave(run_guarded(main))
"""


def close(*numbers: int) -> Callable[[], None]:
    def run() -> None:
        for number in numbers:
            os.close(number)

    return run


def without_reader(number: int) -> Callable[[], None]:
    def run() -> None:
        reader, writer = os.pipe()
        os.dup2(writer, number)
        os.close(reader)
        os.close(writer)

    return run


def on(path: str, number: int, flags: int = os.O_WRONLY) -> Callable[[], None]:
    return lambda: (os.dup2(os.open(path, flags), number), None)[1]


STREAMS: dict[str, Callable[[], None]] = {
    **{
        f"closed {numbers}": close(*numbers) for size in (1, 2, 3) for numbers in itertools.combinations(range(3), size)
    },
    **{f"{number} without a reader": without_reader(number) for number in (1, 2)},
    **{f"{number} on a full disk": on("/dev/full", number) for number in (1, 2)},
    **{f"{number} for reading only": on("/dev/null", number, os.O_RDONLY) for number in (1, 2)},
}
LOCALES: dict[str, dict[str, str]] = {
    "C": {"LC_ALL": "C"},
    "C without coercion": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "POSIX": {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "ascii, strict": {"PYTHONIOENCODING": "ascii:strict"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "utf-16": {"PYTHONIOENCODING": "utf-16"},
    "no such locale": {"LC_ALL": "xx_YY.UTF-8"},
    "UTF-8": {"PYTHONUTF8": "1"},
    "unbuffered": {"PYTHONUNBUFFERED": "1"},
}


def run(path: Path, *arguments: str, before: Callable[[], None] | None, env: dict[str, str]) -> int:
    """Run SAYS; returns its exit code."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    return subprocess.run(
        [sys.executable, "-c", SAYS, str(path), *arguments],
        env={**plain, "PYTHONPATH": str(ROOT), **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=before,
        timeout=60,
        check=False,
    ).returncode


@pytest.mark.parametrize("name", STREAMS)
def test_a_training_ends_with_its_own_code_whatever_its_streams_are(tmp_path: Path, name: str) -> None:
    assert run(tmp_path / "file", "training", before=STREAMS[name], env={}) == 0
    assert (tmp_path / "file").read_text() == "done"


@pytest.mark.parametrize("name", LOCALES)
def test_every_locale_shows_every_character(tmp_path: Path, name: str) -> None:
    for arguments in ((), ("training",)):
        assert run(tmp_path / "file", *arguments, before=None, env=LOCALES[name]) == 0
        assert (tmp_path / "file").read_text() == "done"


@pytest.mark.parametrize(("name", "code"), [("1 without a reader", 141), ("1 on a full disk", 1), ("closed (1,)", 0)])
@pytest.mark.parametrize("env", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "unbuffered"])
def test_a_command_whose_output_is_its_work_fails_without_it(
    tmp_path: Path, name: str, code: int, env: dict[str, str]
) -> None:
    assert run(tmp_path / "file", before=STREAMS[name], env=env) == code


REPLACED = {
    "encoded": "import codecs; sys.stdout = codecs.getwriter('utf-8')(sys.stdout.buffer)",
    "wrapped": "import io; sys.stdout = io.TextIOWrapper(sys.stdout.buffer, 'utf-8')",
    "detached": "import io; sys.stdout = io.TextIOWrapper(sys.stdout.detach(), 'utf-8')",
    "reopened": "import os; sys.stdout = os.fdopen(1, 'w', closefd=False)",
    "put back": "sys.stdout = open('/dev/null'); sys.stdout = sys.__stdout__",
    "a copy": "import types, sys; sys.stdout = types.SimpleNamespace(write=sys.stdout.write, flush=sys.stdout.flush)",
    "without flush": "import types; sys.stdout = types.SimpleNamespace(write=sys.stdout.write)",
    "plain": "pass",
}
"""What code of the user's does to standard output."""


@pytest.mark.parametrize("name", REPLACED)
@pytest.mark.parametrize("closed", [(), (1,)], ids=["open", "closed"])
@pytest.mark.parametrize("kind", ["command", "training"])
def test_a_stream_that_takes_its_place_prints_all(name: str, closed: tuple[int, ...], kind: str) -> None:
    program = (
        "import sys\nfrom dist_train.system.exit import leave, run_guarded\n"
        "from dist_train.system.inherited_state import prepare_streams\n"
        f"def main():\n    print('before')\n    {REPLACED[name]}\n    print('after')\n"
        "if 'training' in sys.argv: prepare_streams()\nleave(run_guarded(main))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, kind], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, preexec_fn=close(*closed),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.split()) == ([] if closed else ["after", "before"])


def test_streams_are_as_those_of_python() -> None:
    names = "('name', 'mode', 'encoding', 'newlines', 'closed')"
    program = (
        "import sys\nfrom dist_train.system.inherited_state import prepare_streams\n"
        f"def show(): return [[getattr(each, name) for name in {names}] for each in (sys.stdout, sys.stderr)]\n"
        "before = show(); prepare_streams(); assert show() == before, show()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_the_stream_of_a_notebook_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "cell").open("w") as cell:
        monkeypatch.setattr(sys, "stdout", cell)
        ignore_output_errors()
        assert sys.stdout is cell


WORKS = {
    "what was there first": "print('a line', file=sys.__stdout__)",
    "a line": "print('a line')",
    "many lines": "print('a line\\n' * 9999)",
    "help": "Parser(usage='a line').print_help(); Parser().exit()",
    "long help": "Parser(usage='a line' * 9999).print_help(); Parser().exit()",
    "a reader of files": "try: print('a line\\n' * 9999)\n    except OSError: sys.exit('the file is damaged')",
    "a loop over samples": "for _ in range(9999):\n        try: print('a line')\n        except Exception: pass",
    "code of the user's": "from dist_train.own_code.load import shown_as_own as own\n"
    "    with own('her code'): print('a line\\n' * 9999)",
    "a fault": "print('a line'); raise ConfigError('a fault')",
}
"""What a command does; most of it could hide that nothing was printed."""


def run_command(work: str, env: dict[str, str], end: str, before: Callable[[], None]) -> tuple[int, str]:
    """Run a command that does this; return its exit code and its errors."""
    program = (
        "import sys\nfrom dist_train.errors import ConfigError\n"
        "from dist_train.system.exit import Parser, leave, run_guarded\n"
        f"def main():\n    {work}\n{end}(run_guarded(main))"
    )
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, check=False, preexec_fn=before,
        env={**plain, "PYTHONPATH": str(ROOT), **env},
    )  # fmt: skip
    return done.returncode, done.stderr


FULL = STREAMS["1 on a full disk"]
LOST = "standard output: can't be written: No space left on device\n"


@pytest.mark.parametrize("name", WORKS)
@pytest.mark.parametrize("env", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("end", ["leave", "sys.exit"])
def test_output_that_is_lost_is_named_once(name: str, env: dict[str, str], end: str) -> None:
    is_later = name == "a fault" and not env  # what was printed is in a buffer, and the command has failed anyway
    assert run_command(WORKS[name], env, end, FULL) == ((2, "a fault\n") if is_later else (1, LOST))


@pytest.mark.parametrize("name", sorted({*WORKS} - {"a fault"}))
@pytest.mark.parametrize("end", ["leave", "sys.exit"])
def test_a_reader_that_ends_early_ends_the_command(name: str, end: str) -> None:
    code = 1 if name == "a reader of files" else 141  # which takes it for its own file's
    assert run_command(WORKS[name], {}, end, STREAMS["1 without a reader"])[0] == code


@pytest.mark.parametrize("name", REPLACED)
@pytest.mark.parametrize("env", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "unbuffered"])
def test_output_that_a_stream_in_its_place_loses_is_named_once(name: str, env: dict[str, str]) -> None:
    assert run_command(f"{REPLACED[name]}; print('a line')", env, "leave", FULL) == (1, LOST)


def test_an_ignored_sigchld_does_not_lose_exit_codes() -> None:
    program = (
        "import subprocess, sys\nfrom dist_train.system.exit import run_guarded\n"
        "sys.exit(run_guarded(lambda: subprocess.run([sys.executable, '-c', 'raise SystemExit(7)']).returncode))"
    )
    quoted = [sys.executable, "-c", program]
    outer = (
        f"import os, signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nos.execv({sys.executable!r}, {quoted!r})"
    )
    done = subprocess.run([sys.executable, "-c", outer], cwd=ROOT, check=False)
    assert done.returncode == 7


def test_a_pipe_that_does_not_block_loses_nothing(tmp_path: Path) -> None:
    """Another program that shares it, such as a terminal multiplexer, has made it so."""
    with subprocess.Popen(
        [sys.executable, "-c", SAYS, str(tmp_path / "file"), "training"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.set_blocking(1, False),
    ) as process:
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
    assert (process.returncode, len(lines)) == (0, 3)
    assert lines[0] == "café \\udcff Δ".encode() * 2000


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "dist_train", str(ROOT / "configs/digits.yaml")],
        ["-m", "dist_train.evaluate", "runs/digits"],
        *[["-m", "launch", *words] for words in (["status"], ["train", str(ROOT / "configs/digits.yaml")])],
    ],
    ids=" ".join,
)
def test_a_removed_working_directory_ends_in_a_message(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "gone").mkdir()
    shell = 'cd "$1" && rmdir "$1" && shift && exec "$@"'
    done = subprocess.run(
        ["bash", "-c", shell, "-", str(tmp_path / "gone"), sys.executable, *command],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("the working directory has been removed: ")
    assert "Traceback" not in done.stderr
