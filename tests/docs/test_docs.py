"""Documents stay true: their commands run, their links lead somewhere, their tables are what the code says."""

import os
import re
import shlex
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser

from dist_train.settings.documentation import format_documentation
from dist_train.settings.loader import load_config
from dist_train.settings.schema import KNOWN_CLASSES
from dist_train.system.exit import Parser
from launch.cli import COMMANDS, load_command
from tests.conftest import ROOT, Python

NOT_OURS = {".venv", ".venv-bench", ".venv-matrix", "runs", ".pytest_cache"}
DOCUMENTS = sorted(path for path in ROOT.rglob("*.md") if not NOT_OURS & set(path.parts))
FOLDERS = ("benchmarks", "configs", "dist_train", "launch", "slurm", "template", "tests")
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
# What makes a command of the README short, without a network and without a trace in the checkout.
SHORT = ["data.name=digits", "data.global_batch=8", "data.limit_train=80", "data.limit_test=40", "train.max_steps=2"]
README = ROOT / "README.md"
CLUSTER = ROOT / "slurm" / "README.md"
OUR_COMMAND = re.compile(r"(?:^| dist-train |\.sif )dist-train (\w+) ?(.*)")  # as it is, or in a container
_ASSIGNMENT = re.compile(r"([A-Z][A-Z0-9_]*)=.*")


def commands(document: Path = README) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", document.read_text(), re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        assert target.startswith("https://") or (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_of_the_repository_are_there(document: Path) -> None:
    if "results" in document.parts:
        return  # what was measured once keeps its words
    text = re.sub(r"```diff\n.*?```", "", document.read_text(), flags=re.DOTALL)  # what a reader adds
    for path in re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]*)`", text):
        assert (ROOT / path).exists(), path


def test_the_reference_of_settings_is_that_of_the_code() -> None:
    written = (ROOT / "configs" / "README.md").read_text()
    assert format_documentation().strip() in written, "run: python -m dist_train --settings > configs/README.md"


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)
def test_every_recipe_opens_with_its_command_and_its_score(config: Path) -> None:
    head = [line for line in config.read_text().split("\n\n")[0].splitlines() if line.startswith("#")]
    text = "\n".join(head)
    assert config.name in text
    for word in ("Hardware:", "Time:", "Score:", "Best:", "Command:"):
        assert word in text, word
    load_config(config)


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)
def test_every_recipe_trains(config: Path, tmp_path: Path, python: Python) -> None:
    """Two steps of each, on made images in the shape of its own data."""
    colour = load_config(config).data.name not in KNOWN_CLASSES or "cifar" in load_config(config).data.name
    shape = [3, 32, 32] if colour else [1, 28, 28]
    overrides = [
        "data.name=synthetic", f"data.shape={shape}", "data.limit_train=20", "data.limit_test=10",
        "train.max_steps=2", f"run.dir={tmp_path / 'run'}",
    ]  # fmt: skip
    done = python("-m", "dist_train", str(config), *overrides)
    assert done.returncode == 0, done.stderr
    assert "test accuracy" in done.stdout


def blocks(language: str) -> list[str]:
    """The blocks of the README in a language; "" for output and files."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


class TestReadme:
    def test_has_at_most_1200_words(self) -> None:
        assert len([word for word in README.read_text().split() if re.search(r"\w", word)]) <= 1200

    def test_names_every_page(self) -> None:
        text = README.read_text()
        pages = [path for path in DOCUMENTS if "results" not in path.parts and path != README]
        assert not [str(path.relative_to(ROOT)) for path in pages if f"]({path.relative_to(ROOT)})" not in text]

    def test_its_settings_are_those_of_the_recipe(self) -> None:
        settings, _ = blocks("yaml")
        assert yaml.safe_load(settings) == yaml.safe_load((ROOT / "configs" / "digits.yaml").read_text())
        assert all("#" in line for line in settings.splitlines() if not line.endswith(":"))

    def test_its_scores_are_those_of_the_recipes(self) -> None:
        rows = re.findall(r"^\| \[\w+\]\((configs/.*?)\) \|[^|]*\| (.*?) \|", README.read_text(), re.MULTILINE)
        assert {ROOT / path for path, _ in rows} == {path for path in CONFIGS if "image_folder" not in path.name}
        for path, score in rows:
            assert score.removesuffix(", needs a GPU") in (ROOT / path).read_text(), path

    def test_the_first_output_begins_by_line_12(self) -> None:
        lines = README.read_text().splitlines()
        assert lines.index(blocks("")[0].splitlines()[0]) < 12

    @pytest.mark.slow
    def test_the_first_output_is_what_make_train_prints(self, tmp_path: Path, python: Python) -> None:
        """But for the digits, which depend on the machine; an accuracy may be 1 % lower."""
        (tmp_path / "configs").symlink_to(ROOT / "configs")
        done = python(*(as_run("make train", short=[]) or []), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        written, printed = (
            [re.sub(r"\d[\d,.e-]*", "N", line) for line in text.splitlines()] for text in (blocks("")[0], done.stdout)
        )
        assert [line for line in written if line not in printed] == []
        expected, reached = (
            float(re.findall(r"^test accuracy (.*?) %", text, re.MULTILINE)[0]) for text in (blocks("")[0], done.stdout)
        )
        assert reached > expected - 1


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path: Path, python: Python) -> None:
    (program,) = blocks("python")
    done = python("-c", program.replace("train.epochs=5", "train.max_steps=2"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    accuracy, _, rest = done.stdout.splitlines()[-1].partition(" ")
    assert rest.startswith("test accuracy "), done.stdout
    assert float(accuracy) > 0


def as_run(command: str, short: list[str] = SHORT) -> list[str] | None:
    """Arguments of Python that do what a command of the README does; None for what another test runs."""
    words = shlex.split(command)
    if words[0] == "make":
        ask = ["make", "--no-print-directory", "-n", *words[1:]]
        made = subprocess.run(ask, cwd=ROOT, capture_output=True, text=True, check=True)
        words = shlex.split(made.stdout.splitlines()[-1])
        words[0] = Path(words[0]).name
    if "pytest" in words or "--nnodes=2" in words:
        return None
    if words[0] == "tensorboard":
        return ["-m", "tensorboard.main", "--version"]  # it would serve until it is ended
    short = short if {"dist_train", "train", "sweep"} & set(words) else []
    if "submit" in words:
        short = ["--dry-run"]
    if "drill" in words:
        short = ["data.limit_train=320", "train.epochs=4", "--rounds", "1", "--faults", "corrupt-latest"]
    modules = {"torchrun": ["-m", "torch.distributed.run"], "dist-train": ["-m", "launch"]}
    return [*modules.get(words[0], []), *words[1:], *short]


@pytest.mark.slow
def test_the_commands_of_the_readme_run(tmp_path: Path, python: Python) -> None:
    """In the order of the README, in a directory of its own, each training cut short."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    ran = [as_run(command) for command in commands()]
    for command, arguments in zip(commands(), ran, strict=True):
        if arguments is not None:
            done = python(*arguments, cwd=tmp_path, env={"PATH": without_slurm()} if "submit" in arguments else None)
            expected = 1 if "diff" in arguments else 0
            assert done.returncode == expected, f"{command}\n{done.stdout}{done.stderr}"
    assert ran.count(None) == 3
    assert (tmp_path / "runs" / "digits" / "checkpoints" / "best").exists()


@pytest.mark.slow
def test_the_commands_for_two_machines_train_together(tmp_path: Path, python: Python) -> None:
    """Both on this machine, each in a directory of its own, with one rank on a CPU."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = {"node0": "127.0.0.1", "29500": str(port), "node=4": "node=1", "cifar10_resnet18": "digits"}
    first, second = (command for command in commands() if "--nnodes=2" in command)
    assert first.replace("node-rank=0", "node-rank=1") == second

    def start(node: int) -> "subprocess.CompletedProcess[str]":
        command = re.sub("|".join(here), lambda found: here[found[0]], (first, second)[node])
        directory = tmp_path / str(node)
        directory.mkdir()
        (directory / "configs").symlink_to(ROOT / "configs")
        words = shlex.split(command)[1:]
        return python("-m", "torch.distributed.run", *words, *SHORT, "distributed.backend=gloo", cwd=directory)

    with ThreadPoolExecutor() as pool:
        main, other = pool.map(start, (0, 1))
    assert (main.returncode, other.returncode) == (0, 0), main.stderr + other.stderr
    assert "2 ranks on cpu" in main.stdout
    assert (tmp_path / "0" / "runs" / "digits" / "checkpoints" / "best").exists()


def without_slurm() -> str:
    """$PATH without a Slurm, which would be asked what it thinks of a job."""
    return os.pathsep.join(
        each for each in os.environ["PATH"].split(os.pathsep) if not (Path(each) / "sbatch").exists()
    )


class TestCommandsOfACluster:
    """Those of slurm/README.md, and of the README those that need one: what here can be said of them."""

    @pytest.mark.parametrize("command", [*commands(CLUSTER), *commands()])
    def test_files_and_settings_are_there(self, command: str) -> None:
        words = shlex.split(command.replace("%a", "0"))
        for word in words:
            if word.startswith(("configs/", "slurm/")):
                assert (ROOT / word).exists(), word
        config = next((word for word in words if re.fullmatch(r"configs/\w+\.yaml", word)), None)
        if config and "sweep" not in words:
            load_config(ROOT / config, [word for word in words if re.match(r"[a-z]+\.[a-z_]+=", word)])

    @pytest.mark.parametrize("command", [each for each in commands(CLUSTER) if "torchrun" in shlex.split(each)])
    def test_torchrun_takes_its_flags(self, command: str) -> None:
        parsed = get_args_parser().parse_args(shlex.split(command)[1:])
        assert (parsed.module, parsed.training_script) == (True, "dist_train")

    @pytest.mark.parametrize("command", [each for each in commands(CLUSTER) if OUR_COMMAND.search(each)])
    def test_dist_train_takes_its_flags(self, command: str) -> None:
        name, arguments = OUR_COMMAND.findall(command)[0]
        assert name in COMMANDS
        parser = Parser()
        load_command(name).add_arguments(parser)
        parser.parse_intermixed_args(takewhile(lambda word: word != "--", shlex.split(arguments)))

    @pytest.mark.parametrize("command", [*commands(CLUSTER), *commands()])
    def test_the_script_reads_the_variables(self, command: str) -> None:
        head = (ROOT / "slurm" / "train.sbatch").read_text().split("#SBATCH")[0]
        for word in takewhile(_ASSIGNMENT.fullmatch, shlex.split(command)):
            assert f"#   {word.partition('=')[0]} " in head, word

    @pytest.mark.slow
    @pytest.mark.parametrize("command", [each for each in commands(CLUSTER) if each.startswith("dist-train submit")])
    def test_submissions_would_be_made(self, command: str, tmp_path: Path, python: Python) -> None:
        (tmp_path / "configs").symlink_to(ROOT / "configs")
        own, dashes, flags = command.replace("--dry-run", "").partition(" -- ")
        arguments = shlex.split(f"{own} --dry-run{dashes}{flags}")[1:]
        done = python("-m", "launch", *arguments, cwd=tmp_path, env={"PATH": without_slurm()})
        assert done.returncode == 0, done.stderr
        assert "sbatch --parsable" in done.stdout
        assert not (tmp_path / "runs").exists()

    def test_there_are_some(self) -> None:
        assert len(commands(CLUSTER)) == 25
