"""Options of a settings file's own: parsed by every command with CONFIG, and set by `load_config`."""

import json
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from dist_train.__main__ import main
from dist_train.elastic import agent
from dist_train.errors import ConfigError
from dist_train.settings.loader import load_config, to_yaml
from dist_train.settings.loading.aliases import RESERVED, expand_all, parse_with_aliases
from dist_train.settings.schema import flatten
from dist_train.system.exit import Parser, run_guarded
from launch import cli
from tests.conftest import Ranks
from tests.unit.dist_train.settings.conftest import LEAST, Load, complaint

ALIASES = """\
aliases:
  --lr: optim.lr
  --test-batch-size: eval.batch_size
  --model: model
  --width: loss.args.label_smoothing
  --no-cuda: distributed.backend=gloo
"""
EXAMPLE = [
    *("--batch-size", "64", "--test-batch-size", "1000", "--epochs", "10", "--lr", "0.01", "--momentum", "0.5"),
    *("--no-cuda", "--seed", "1", "--log-interval", "10", "--save-model"),
]
"""The command line of PyTorch's MNIST example."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.yaml"
    path.write_text(LEAST + ALIASES)
    return path


def settings_of(path: str | Path, *overrides: str) -> dict[str, object]:
    return flatten(load_config(path, overrides).model_dump())


class TestLoading:
    def test_an_alias_is_its_setting(self, file: Path) -> None:
        words = ("--lr=0.5", "--test-batch-size=7", "--model=mnist_cnn", "--width=0.1", "--no-cuda")
        written = (
            *("optim.lr=0.5", "eval.batch_size=7", "model=mnist_cnn"),
            *("loss.args.label_smoothing=0.1", "distributed.backend=gloo"),
        )
        assert settings_of(file, *words) == settings_of(file, *written)
        assert expand_all(file, [*words, "run.seed=3"]) == [*written, "run.seed=3"]
        assert settings_of(file) == settings_of(file, "run.seed=0")

    def test_the_settings_of_a_run_hold_none(self, file: Path) -> None:
        assert "alias" not in to_yaml(load_config(file, ["--lr=0.5"]))

    @pytest.mark.parametrize(
        ("word", "message"),
        [
            ("--lr", "command line: --lr: needs a value, which sets optim.lr"),
            ("--lr=", "command line: --lr=: optim.lr is null; it must be a number of at least 0"),
            ("--lr=fast", "command line: --lr=fast: optim.lr is 'fast'; it must be a number of at least 0"),
            ("--test-batch-size=0", "--test-batch-size=0: eval.batch_size is 0; it must be a whole number of at least"),
            ("--model=lenett", "--model=lenett: model.name is 'lenett'; allowed: lenet"),
            ("--no-cuda=1", "takes no value: --no-cuda alone sets distributed.backend=gloo"),
            ("--momentum=1", "is not of the form key=value, and there are the options --lr, --test-batch-size"),
        ],
    )
    def test_a_wrong_value_is_refused_with_alias_and_setting(self, load: Load, word: str, message: str) -> None:
        assert message in complaint(load, LEAST + ALIASES, word)

    def test_an_alias_and_its_setting_are_one(self, load: Load) -> None:
        assert complaint(load, LEAST + ALIASES, "optim.lr=1", "--lr=2").endswith(
            "optim.lr is set twice on the command line"
        )

    @pytest.mark.parametrize(
        ("section", "message"),
        [
            ("aliases: 3", "a.yaml:3: aliases must be a mapping of options"),
            ("aliases: [--lr]", "a.yaml:3: aliases must be a mapping of options"),
            (
                "aliases:\n  --lr: optim.lrr",
                "a.yaml:4: aliases: --lr: optim.lrr is not a setting. Did you mean optim.lr?",
            ),
            ("aliases: {--lr: learning_rate}", "--lr: learning_rate is not a setting; here it is optim.lr"),
            ("aliases: {--lr: train}", "--lr: train is a section; set one of its keys: train.epochs"),
            ("aliases: {--lr: log.every}", "this setting is now called log.every_steps"),
            ("aliases: {--lr: =3}", "a.yaml:3: aliases: --lr:  is not a setting"),
            ("aliases: {--lr: 3}", "a.yaml:3: aliases: --lr must stand for a setting, such as optim.lr"),
            ("aliases: {--lr: }", "--lr must stand for a setting"),
            ("aliases: {--lr: [optim.lr]}", "--lr must stand for a setting"),
            ("aliases: {lr: optim.lr}", "aliases: lr is no option; write it like --batch-size"),
            ("aliases: {-l: optim.lr}", "aliases: -l is no option"),
            ("aliases: {--l=r: optim.lr}", "is no option"),
            *((f"aliases: {{{flag}: optim.lr}}", f"{flag} is an option of dist-train itself") for flag in RESERVED),
        ],
    )
    def test_a_wrong_alias_is_refused_by_its_line(self, load: Load, section: str, message: str) -> None:
        assert message in complaint(load, LEAST + section)

    def test_an_empty_section_is_none(self, load: Load) -> None:
        assert load(LEAST + "aliases:") == load(LEAST + "aliases: {}") == load(LEAST)


class TestParsing:
    def parse(self, *words: str) -> list[str]:
        parser = Parser(prog="train")
        parser.add_argument("config")
        parser.add_argument("overrides", nargs="*", default=[])
        parser.add_argument("--nproc")
        parser.add_argument("--momentum", action="store_true")
        overrides: list[str] = parse_with_aliases(parser, words).overrides
        return overrides

    def test_words_are_mixed_in_any_order(self, file: Path) -> None:
        name = str(file)
        assert self.parse(name, "run.seed=1", "--lr", "0.5", "--no-cuda", "log.ledger=false") == [
            *("run.seed=1", "log.ledger=false", "--lr=0.5", "--no-cuda")
        ]
        assert self.parse("--lr", "-0.5", name, "--nproc", "2") == ["--lr=-0.5"]
        assert self.parse("--lr=1e-3", "--test-batch-size", "--no-cuda", name) == [
            *("--lr=1e-3", "--test-batch-size", "--no-cuda")
        ]

    @pytest.mark.parametrize("word", ["--lrr", "--nprok", "--learning-rate", "-x"])
    def test_an_unknown_option_is_refused(self, file: Path, word: str) -> None:
        with pytest.raises(ConfigError, match=f"unrecognized arguments: {word}") as caught:
            self.parse(str(file), word, "3")
        guess = {"--lrr": "Did you mean --lr?", "--nprok": "Did you mean --nproc?"}
        assert guess.get(word, "a setting is given as key=value") in str(caught.value)

    def test_a_file_that_cannot_be_read_has_none(self, tmp_path: Path) -> None:
        (tmp_path / "b.yaml").write_text("a: [")
        with pytest.raises(ConfigError, match="unrecognized arguments: --lr"):
            self.parse(str(tmp_path / "b.yaml"), "--lr", "3")


class TestMnistExample:
    @pytest.mark.parametrize("name", ["mnist_example", "configs/mnist_example.yaml"])
    def test_its_command_line_works_in_every_command(self, capsys: pytest.CaptureFixture[str], name: str) -> None:
        words = [name, "run.name=mixed", *EXAMPLE]
        assert main([*words, "--print-config"]) == 0
        printed = capsys.readouterr().out
        assert cli.main(["train", *words[2:], *words[:2], "--print-config"]) == 0
        assert capsys.readouterr().out == printed
        overrides = (
            *("run.name=mixed", "data.global_batch=64", "eval.batch_size=1000", "train.epochs=10", "optim.lr=0.01"),
            *("optim.momentum=0.5", "distributed.backend=gloo", "run.seed=1", "log.every_steps=10"),
            "checkpoint.keep_best=true",
        )
        assert printed == to_yaml(load_config(name, overrides))

    def test_launchers_pass_it_on(self) -> None:
        words = ["mnist_example", *EXAMPLE]
        under_torchrun = get_args_parser().parse_args(["--nproc-per-node=2", "-m", "dist_train", *words])
        assert under_torchrun.training_script_args == words
        parsed = agent._parse(["--nproc", "2", "--max-restarts", "0", "mnist_example", "--lr=0.5", "--no-cuda"])
        assert (parsed.config, parsed.overrides) == ("mnist_example", ["--lr=0.5", "--no-cuda"])

    @pytest.mark.slow
    def test_its_evaluation_is_the_same_on_any_number_of_ranks(self, tmp_path: Path, on_ranks: Ranks) -> None:
        run = tmp_path / "run"
        data = ("data.name=synthetic", "data.num_train=32", "data.num_test=40", "train.max_steps=2", f"run.dir={run}")
        words = ["7" if word == "1000" else word for word in EXAMPLE]
        done = on_ranks(2, "-m", "dist_train", "mnist_example", *words, *data)
        assert done.returncode == 0, done.stderr
        assert load_config(run / "config.yaml").eval.batch_size == 7
        of_two = on_ranks(2, "-m", "dist_train.evaluate", str(run), "--json")
        of_one = on_ranks(1, "-m", "dist_train.evaluate", str(run), "--json")
        assert json.loads(of_two.stdout) == json.loads(of_one.stdout)
        assert json.loads(of_one.stdout)["count"] == 40

    @pytest.mark.parametrize("command", [["train"], None])
    def test_help_lists_them(self, capsys: pytest.CaptureFixture[str], command: list[str] | None) -> None:
        words = ["mnist_example", "--help"]
        assert (cli.main([*command, *words]) if command else run_guarded(lambda: main(words))) == 0
        printed = capsys.readouterr().out
        assert "options of mnist_example, each an alias of a setting:" in printed
        for flag in EXAMPLE:
            assert not flag.startswith("--") or f"  {flag} " in printed
        assert "data.global_batch" in printed
        assert "distributed.backend=gloo" in printed
