"""Settings that are accepted, and how they are written."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dist_train.settings.loader import load_config, to_yaml
from dist_train.settings.schema import Augment, Config, ImageData, Normalize
from tests.unit.dist_train.settings.conftest import LEAST, Load, complaint


def images(config: Config) -> ImageData:
    assert isinstance(config.data, ImageData)
    return config.data


def test_least_file_gets_the_defaults_of_its_surroundings(load: Load) -> None:
    config = load(LEAST)
    assert (config.run.name, config.run.dir) == ("a", "runs/a")
    assert images(config).root == "data"
    assert images(config).cache == str(Path("~/.cache/dist-train").expanduser())
    assert config.optim.name == "sgd"
    assert config.train.epochs == 10


def test_environment_moves_root_and_cache(load: Load) -> None:
    config = load(LEAST, DIST_TRAIN_DATA="/some/data", XDG_CACHE_HOME="/some/cache")
    assert (images(config).root, images(config).cache) == ("/some/data", "/some/cache/dist-train")


def test_environment_of_the_process_counts_where_none_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIST_TRAIN_DATA", "/some/data")
    (tmp_path / "a.yaml").write_text(LEAST)
    assert images(load_config(tmp_path / "a.yaml")).root == "/some/data"


def test_home_is_expanded(load: Load) -> None:
    config = load(LEAST, "data.root=~/images", "data.cache=~", "run.dir=~/runs")
    assert images(config).root == str(Path.home() / "images")
    assert images(config).cache == str(Path.home())
    assert config.run.dir == str(Path.home() / "runs")


def test_variable_that_is_no_text_is_named(load: Load) -> None:
    text = complaint(load, LEAST, DIST_TRAIN_DATA="\ud800", XDG_CACHE_HOME="~nobody-is-called-so")
    assert "$DIST_TRAIN_DATA: data.root is '\\ud800'; it must be text" in text
    assert "$XDG_CACHE_HOME: data.cache is '~nobody-is-called-so/dist-train'; the home directory" in text


@pytest.mark.parametrize(
    ("stem", "name"), [("my run (2)", "my-run-2-"), ("..x", "x"), ("-", "run"), ("käse", "k-se"), ("a.b", "a.b")]
)
def test_run_is_called_after_its_file(tmp_path: Path, stem: str, name: str) -> None:
    path = tmp_path / f"{stem}.yaml"
    path.write_text(LEAST)
    config = load_config(path)
    assert (config.run.name, config.run.dir) == (name, f"runs/{name}")


def test_command_line_outweighs_file_and_file_outweighs_default(load: Load) -> None:
    text = LEAST + "train: {micro_batch: 3}\nlog: {every_steps: 7}\n"
    config = load(text, "log.every_steps=8", "run.name=b", "eval.every_epochs=2")
    assert (config.train.micro_batch, config.log.every_steps, config.eval.every_epochs) == (3, 8, 2)
    assert config.run.dir == "runs/b"


@pytest.mark.parametrize(
    ("text", "epochs"), [("", 10), ("max_steps: 5", None), ("epochs: 3, max_steps: 5", 3), ("epochs: null", 10)]
)
def test_ten_epochs_where_nothing_ends_the_run(load: Load, text: str, epochs: int | None) -> None:
    assert load(LEAST + f"train: {{{text}}}").train.epochs == epochs


def test_empty_sections_are_their_defaults(load: Load) -> None:
    text = "run:\ndata:\n  name: synthetic\n  augment:\nmodel: {name: lenet}\ntrain:\nlog: ~\n"
    assert load(text) == load(LEAST)


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.1", 0.1), ("1.", 1.0), (".5", 0.5), ("1.0e-4", 1e-4), ("1.0e4", 1e4), ("1.5E+2", 150.0), ("+2", 2.0)],
)
def test_numbers_of_a_file(load: Load, text: str, value: float) -> None:
    assert load(LEAST + f"optim: {{lr: {text}}}").optim.lr == value


@pytest.mark.parametrize(("text", "value"), [("3e-4", 3e-4), ("3E4", 3e4), ("0.1", 0.1), ("1", 1.0)])
def test_numbers_of_a_command_line(load: Load, text: str, value: float) -> None:
    assert load(LEAST, f"optim.lr={text}").optim.lr == value


def test_on_and_off_are_words(load: Load) -> None:
    config = load(LEAST + "train: {channels_last: on}\n", "log.progress=off")
    assert (config.train.channels_last, config.log.progress) == ("on", "off")


def test_lists_and_mappings_of_a_command_line(load: Load) -> None:
    whole = load(LEAST, "data.normalize={mean: [0.5], std: [0.25]}", "data.augment={flip: true}")
    parts = load(LEAST + "log:\n", "data.normalize.mean=[0.5]", "data.normalize.std=[0.25]", "data.augment.flip=true")
    assert whole == parts
    assert images(whole).normalize == Normalize(mean=(0.5,), std=(0.25,))
    assert images(whole).augment == Augment(flip=True)


def test_part_of_a_mapping_is_overridden_alone(load: Load) -> None:
    text = "data: {name: synthetic, normalize: {mean: [0.5], std: [0.25]}}\nmodel: {name: lenet}\n"
    assert images(load(text, "data.normalize.std=[2.0]")).normalize == Normalize(mean=(0.5,), std=(2.0,))
    assert images(load(text, "data.normalize=auto")).normalize == "auto"


def test_parts_on_the_command_line_replace_a_word_of_the_file(load: Load) -> None:
    text = "data: {name: synthetic, normalize: auto}\nmodel: {name: lenet}\n"
    config = load(text, "data.normalize.mean=[0.5]", "data.normalize.std=[0.25]")
    assert images(config).normalize == Normalize(mean=(0.5,), std=(0.25,))


@pytest.mark.parametrize("name", ["2024", "1.5", "true", "null-1", "1e3"])
def test_text_of_a_command_line_needs_no_quotes(load: Load, name: str) -> None:
    assert load(LEAST, f"run.name={name}").run.name == name


@pytest.mark.parametrize("path", ["[odd", "a: b", "*x", "!x", "x=y", "'", "a #b", " a", "a\nb", "'a'", "null"])
def test_path_of_a_command_line_is_taken_as_it_stands(load: Load, path: str) -> None:
    assert load(LEAST, f"run.resume={path}").run.resume == path


def test_null_is_not_given(load: Load) -> None:
    text = LEAST + "train: {max_steps: 3}\n"
    assert load(text, "train.max_steps=null") == load(text, "train.max_steps=") == load(LEAST)


def test_resolved_settings_come_in_the_order_of_config(load: Load) -> None:
    text = to_yaml(load(LEAST, "train.channels_last=on", "train.compile=off", "optim.name=adam", "optim.eps=1e-9"))
    tree = yaml.safe_load(text)
    assert list(tree) == list(Config.model_fields)
    assert all(next(iter(tree[section])) == "name" for section in ("run", "data", "model", "optim"))
    assert "channels_last: 'on'\n" in text
    assert "compile: 'off'\n" in text
    assert "betas: [0.9, 0.999]\n" in text
    assert tree["optim"]["eps"] == 1e-9


def test_loading_needs_no_torch() -> None:
    code = "import sys, dist_train.settings.loader; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
