"""The command `dist-train`: it answers at once, checks settings before anything starts, and imports no torch."""

import ast
import importlib
import os
import signal
import sys
from argparse import ArgumentParser
from pathlib import Path

import pytest

from dist_train.monitoring.ledger import Comparison, compare, read
from dist_train.settings.schema import Distributed
from dist_train.system.stop_signals import SIGNALS
from launch import cli
from launch.arguments import AUTO
from launch.local import training_command
from launch.local.training_command import most_ranks
from tests.conftest import ROOT, Python
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
        module = ROOT / "launch" / (f"commands/{name}.py" if name in cli.COMMANDS else f"{name}.py")
        names = set(imports(at_import(ast.parse(module.read_text(encoding="utf-8")))))
        ours = {name for name in names if name.startswith("dist_train")}
        assert not [name for name in ours if not is_without_torch(name) or "settings" in name or "metrics" in name]

    def test_help_loads_neither_torch_nor_pydantic(self, python: Python) -> None:
        program = (
            "import sys\nfrom launch.cli import main\n"
            "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
            "sys.exit(len({'torch', 'numpy', 'pydantic', 'yaml'} & set(sys.modules)))"
        )
        for arguments in (["--help"], *([command, "--help"] for command in cli.COMMANDS)):
            done = python("-c", program, *arguments)
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout.startswith("usage: dist-train")


class TestCommands:
    def test_every_command_is_a_module_with_two_functions(self) -> None:
        for name in cli.COMMANDS:
            command = importlib.import_module(f"launch.commands.{name}")
            command.add_arguments(ArgumentParser())
            assert callable(command.run)
            assert command.__doc__

    def test_help_lists_the_commands_and_the_exit_codes(self, python: Python) -> None:
        done = python("-m", "launch", "--help")
        assert done.returncode == 0
        assert all(f"  {name} " in done.stdout for name in cli.COMMANDS)
        assert "75   stopped from outside" in done.stdout

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ([], "COMMAND"),
            (["trian"], "'trian'"),
            (["train"], "CONFIG"),
            (
                ["train", "x.yaml", "--nproc", "٣"],
                f"it must be auto or a number from 1 to {most_ranks()}",
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
        self, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
    ) -> None:
        assert cli.main(arguments) == 2
        assert said in capsys.readouterr().err

    @pytest.mark.parametrize("ranks", ["1", "2", "auto"])
    def test_a_wrong_key_is_answered_before_torch_is_imported(self, config: Path, python: Python, ranks: str) -> None:
        (config.parent / "torch.py").write_text("raise SystemExit('torch is imported')")
        path = os.pathsep.join([str(config.parent), str(ROOT)])
        command = ("-m", "launch", "train", str(config), "--nproc", ranks)
        done = python(*command, "optim.lrr=1", env={"PYTHONPATH": path})
        assert done.returncode == 2
        assert done.stderr.endswith("optim.lrr is not a setting. Did you mean optim.lr?\n")
        assert python(*command, env={"PYTHONPATH": path}).stderr == "torch is imported\n"

    def test_the_settings_can_be_printed(self, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["train", str(config), "optim.lr=0.5", "--print-config", "run.name=other"]) == 0
        printed = capsys.readouterr().out
        assert "lr: 0.5" in printed
        assert "name: other" in printed


class TestWhatIsStarted:
    @pytest.mark.parametrize(
        ("ranks", "restarts", "expected"),
        [
            (1, 0, ["-m", "dist_train"]),
            (1, 2, ["-m", "dist_train.elastic.agent", "--nproc", "1", "--max-restarts", "2"]),
            (3, 0, ["-m", "dist_train.elastic.agent", "--nproc", "3", "--max-restarts", "0"]),
            (None, 0, ["-m", "dist_train.elastic.agent", "--nproc", "auto", "--max-restarts", "0"]),
        ],
    )
    def test_one_process_needs_no_agent(self, ranks: int | None, restarts: int, expected: list[str]) -> None:
        assert training_command.command_line(["a.yaml", "b=1", "c=2"], ranks, restarts) == [
            sys.executable,
            *expected,
            "a.yaml",
            "b=1",
            "c=2",
        ]

    @pytest.mark.parametrize(
        ("backend", "files", "visible", "expected"),
        [
            ("auto", [], None, 1),
            ("auto", ["nvidia0", "nvidia1"], None, None),
            ("nccl", ["nvidia0"], "0", None),
            ("auto", ["kfd"], None, None),
            ("gloo", ["nvidia0"], None, 1),
            ("auto", ["nvidia0"], "", 1),
            ("auto", ["nvidia0"], "-1", 1),
            ("auto", ["nvidiactl", "nvidia-uvm"], None, 1),
        ],
    )
    def test_auto_is_one_process_where_there_is_no_gpu(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        backend: str,
        files: list[str],
        visible: str | None,
        expected: int | None,
    ) -> None:
        for name in files:
            (tmp_path / name).touch()
        monkeypatch.setattr(training_command, "DEVICES", tmp_path)
        environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
        assert training_command.resolved(AUTO, Distributed.model_validate({"backend": backend}), environ) == expected
        assert training_command.resolved(5, Distributed(), environ) == 5

    def test_ranks_share_the_cores_unless_the_user_says_otherwise(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
        assert training_command.environment(4, {"A": "b"}) == {"A": "b", "OMP_NUM_THREADS": "3"}
        assert training_command.environment(2, {}, runs=3) == {"OMP_NUM_THREADS": "2"}
        assert training_command.environment(100, {})["OMP_NUM_THREADS"] == "1"
        assert training_command.environment(4, {"OMP_NUM_THREADS": "7"}) == {"OMP_NUM_THREADS": "7"}

    def test_a_signal_waits_for_what_is_started(self, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It would end what has no handler yet with another code than 75."""
        started: list[list[str]] = []
        blocked: set[int] = set()

        def execve(program: str, command: list[str], environ: dict[str, str]) -> None:  # noqa: ARG001
            started.append(command)
            blocked.update(signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS))
            raise SystemExit(0)  # a real one does not come back

        monkeypatch.setattr(os, "execve", execve)
        with pytest.raises(SystemExit):
            cli.main(["train", str(config), "--nproc", "1"])
        assert started == [[sys.executable, "-m", "dist_train", str(config)]]
        assert blocked >= set(SIGNALS)

    @pytest.mark.slow
    def test_one_process_trains(self, config: Path, python: Python) -> None:
        run = config.parent / "run"
        done = python("-m", "launch", "train", str(config), f"run.dir={run}", "--nproc", "1")
        assert done.returncode == 0, done.stderr
        assert (run / "checkpoints" / "latest" / "model.pt").exists()


@pytest.mark.slow
def test_one_rank_of_the_agent_trains_the_same_bits_as_a_process(tmp_path: Path, config: Path, python: Python) -> None:
    """So that a run may go on either way."""
    settings = ("train.max_steps=4", "train.max_grad_norm=0.1", "log.weights_every_steps=1", "distributed.backend=gloo")
    for name, options in (("process", []), ("agent", ["--max-restarts", "1"])):
        command = ("-m", "launch", "train", str(config), *settings, f"run.dir={tmp_path / name}", "--nproc", "1")
        done = python(*command, *options)
        assert done.returncode == 0, done.stderr
    process, agent = (read(tmp_path / name / "ledger.jsonl") for name in ("process", "agent"))
    assert compare(process, agent) == Comparison(4, None)
