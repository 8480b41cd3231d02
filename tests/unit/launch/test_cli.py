"""The command `dist-train`: fast answers, checks before anything starts, and no import of torch."""

import ast
import os
from argparse import ArgumentParser
from pathlib import Path

import pytest

from dist_train.system.exit import describe_versions
from launch import cli
from launch.local.training_command import max_ranks
from tests.conftest import ROOT, Python
from tests.unit.launch.run_files import leave_run, leave_sweep
from tests.unit.test_layers import at_import, imports, is_without_torch

CONFIG = """
data: {name: synthetic, num_train: 32, num_test: 8, global_batch: 16}
model: {name: mnist_cnn}
optim: {name: sgd, lr: 0.05}
train: {max_steps: 2}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(CONFIG)
    return path


class TestImports:
    @pytest.mark.parametrize("name", ["cli", *cli.COMMANDS])
    def test_nothing_heavy_is_imported_before_it_is_needed(self, name: str) -> None:
        """`--help` answers before pydantic could have been imported."""
        group = cli.COMMANDS.get(name)
        module = ROOT / "launch" / (f"commands/{group}/{name}.py" if group else f"{name}.py")
        names = set(imports(at_import(ast.parse(module.read_text(encoding="utf-8")))))
        ours = {name for name in names if name.startswith("dist_train")}
        assert not [name for name in ours if not is_without_torch(name) or "settings" in name or "metrics" in name]

    def test_help_loads_neither_torch_nor_pydantic(self, interpreter: Python) -> None:
        program = (
            "import sys\nfrom launch.cli import main\n"
            "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
            "sys.exit(len({'torch', 'numpy', 'pydantic', 'yaml'} & set(sys.modules)))"
        )
        for arguments in (["--version"], ["--help"], *([command, "--help"] for command in cli.COMMANDS)):
            done = interpreter("-c", program, *arguments)
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout.startswith("dist-train " if "--version" in arguments else "usage: dist-train")


def test_every_command_is_a_module_with_two_functions() -> None:
    for name in cli.COMMANDS:
        command = cli.load_command(name)
        parser = ArgumentParser()
        command.add_arguments(parser)
        assert not [action.dest for action in parser._actions if action.nargs == "*" and action.required]
        assert callable(command.run)
        assert command.__doc__


@pytest.mark.parametrize("words", [[], *([command] for command in cli.COMMANDS)], ids=str)
def test_each_command_prints_the_versions(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert cli.main([*words, "--version"]) == 0
    assert capsys.readouterr().out == f"{describe_versions()}\n"


def test_help_lists_the_commands_and_the_exit_codes(interpreter: Python) -> None:
    done = interpreter("-m", "launch", "--help")
    assert done.returncode == 0
    assert all(f"  {name} " in done.stdout for name in cli.COMMANDS)
    assert "75   stopped by a signal" in done.stdout


@pytest.mark.parametrize(
    "command",
    [
        *[f"launch {name} --help" for name in cli.COMMANDS],
        *("launch --help", "launch --version", "launch recipes", "launch train digits --print-config"),
        *(f"launch {name} run" for name in ("status", "logs", "postmortem")),
        *("launch data digits", "launch model digits"),
        *(f"dist_train {option}" for option in ("--help", "--version", "--settings", "digits --print-config")),
    ],
)
def test_a_command_that_cannot_print_fails(command: str, python: Python, tmp_path: Path) -> None:
    module, *arguments = command.split()
    start = "main(sys.argv[1:])" if module == "launch" else "start(sys.argv[1:])"
    full = "import os, sys\nos.dup2(os.open('/dev/full', os.O_WRONLY), 1)\n"
    place = "launch.cli import main" if module == "launch" else "dist_train.__main__ import start"
    leave_run(tmp_path / "run")
    done = python("-c", f"{full}from {place}\nsys.exit({start})", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith("standard output: can't be written: No space left on device\n"), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["trian"], "'trian' is not a command. Did you mean train?"),
        (["xyz"], "'xyz' is not a command; there are train, submit, "),
        (["train", "mnist_exmaple", "--print-config"], "Did you mean mnist_example?"),
        (["train", "configs/mnist_exmaple.yaml", "--print-config"], "(did you mean configs/mnist_example.yaml?)"),
        (["train", "digits", "--lr", "1"], "unrecognized arguments: --lr 1; a setting is given as key=value"),
        (["sweep", "digits", "--lr", "1"], "unrecognized arguments: --lr 1\n"),
        (["status", "--jsn"], "unrecognized arguments: --jsn. Did you mean --json?"),
        (["train"], "CONFIG"),
        (
            ["train", "x.yaml", "--nproc", "٣"],
            f"it must be auto or a number from 1 to {max_ranks()}",
        ),
        (["train", "x.yaml", "--nproc", "0"], "--nproc: is '0'; it must be auto or a number from 1 to"),
        (["train", "x.yaml", "--max-restarts=-1"], "--max-restarts: is '-1'; it must be a number from 0 up"),
        (["train", "x.yaml", "--nproc", "9999999"], "--nproc: is '9999999'; it must be auto or a number from 1 to"),
        (["drill", "x.yaml", "--nproc", "9999999"], "--nproc: is '9999999'; it must be a number from 1 to"),
        (["sweep", "x.yaml", "--nproc", "9999999"], "--nproc: is '9999999'; it must be auto or a number from 1 to"),
        (["train", "no-such.yaml", "--print-config"], "no-such.yaml"),
    ],
)
def test_a_fault_ends_with_code_2_and_a_message(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    ["evaluate", "predict", "show", "export --format onnx -o x.onnx", "logs", "postmortem", "ckpt ls", "diff"],
)
def test_a_command_for_a_run_names_the_trials_of_a_sweep(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = str(leave_sweep("digits.sweep", 0.1, 0.2))
    name, *words = command.split()
    given = [sweep, *words] if name == "export" else [*words, sweep, *([sweep] if name == "diff" else [])]
    assert cli.main([name, *given]) == 2
    assert capsys.readouterr().err.startswith(f"{sweep}: is a sweep; give the directory of one of its trials (0-lr")


@pytest.mark.parametrize("ranks", ["1", "2", "auto"])
def test_a_wrong_key_is_answered_before_torch_is_imported(config: Path, interpreter: Python, ranks: str) -> None:
    (config.parent / "torch.py").write_text("import os\nos.write(2, b'torch is imported\\n')\nos._exit(9)")
    path = os.pathsep.join([str(config.parent), str(ROOT)])
    command = ("-m", "launch", "train", str(config), "--nproc", ranks)
    done = interpreter(*command, "optim.lrr=1", env={"PYTHONPATH": path})
    assert done.returncode == 2
    assert done.stderr.endswith("optim.lrr is not a setting. Did you mean optim.lr?\n")
    assert interpreter(*command, env={"PYTHONPATH": path}).stderr == "torch is imported\n"


def test_the_settings_can_be_printed(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", str(config), "optim.lr=0.5", "--print-config", "run.name=other"]) == 0
    printed = capsys.readouterr().out
    assert "lr: 0.5" in printed
    assert "name: other" in printed
