"""Old settings: refused in a file of settings and on the command line, translated in what an earlier version wrote."""

from pathlib import Path

import pytest
import yaml

from dist_train.errors import ConfigError
from dist_train.settings.contradictions import find_contradictions
from dist_train.settings.documentation import format_documentation
from dist_train.settings.loader import load_config, load_run_config, to_yaml
from dist_train.settings.loading.renames import (
    ADDED_KEYS,
    OLD_VALUES,
    RENAMED_KEYS,
    REPLACED_KEYS,
    UNSET,
    OldValue,
    translate_settings,
)
from dist_train.settings.schema import CifarTutorial, Config, flatten, list_keys
from tests.conftest import ROOT
from tests.unit.dist_train.settings.conftest import LEAST, Load, complaint

KEYS = pytest.mark.parametrize(("old", "new"), RENAMED_KEYS.items(), ids=RENAMED_KEYS)
VALUES = pytest.mark.parametrize("old", OLD_VALUES, ids=lambda old: f"{old.key}={old.value}")


def nested(key: str, value: str, style: str) -> str:
    """A setting as it is written in a file, with the number of the line on which its key is."""
    section, name = key.split(".")
    if section == "data":
        parts = {"flow": f"{{name: synthetic, {name}: {value}}}", "block": f"\n  name: synthetic\n  {name}: {value}"}
        return f"model: {{name: lenet}}\ndata: {parts[style]}\n"
    return LEAST + f"{section}: " + {"flow": f"{{{name}: {value}}}", "block": f"\n  {name}: {value}"}[style] + "\n"


def line_of(text: str, word: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if word in line)


@KEYS
@pytest.mark.parametrize("style", ["flow", "block"])
@pytest.mark.parametrize("value", ["5", "null", "five"])
def test_an_old_key_in_a_file_is_refused(load: Load, old: str, new: str, style: str, value: str) -> None:
    text = nested(old, value, style)
    formatted = f"'{value}'" if value == "five" else value
    line = line_of(text, f"{old.split('.')[1]}: ")
    assert complaint(load, text) == f"a.yaml:{line}: {old} is {formatted}; this setting is now called {new}"


@KEYS
@pytest.mark.parametrize("value", ["5", "null", ""])
def test_an_old_key_on_the_command_line_is_refused(load: Load, old: str, new: str, value: str) -> None:
    text = complaint(load, LEAST, f"{old}={value}")
    assert text == f"command line: {old}={value}: {old} is {value or 'null'}; this setting is now called {new}"


@KEYS
def test_an_old_key_beside_the_new_one_is_refused(load: Load, old: str, new: str) -> None:
    (section, name), (new_section, *names) = old.split("."), new.split(".")
    where = "" if section == new_section else f"{new_section}:\n"
    written = "".join(f"{' ' * 2 * depth}{part}:\n" for depth, part in enumerate(names, start=1)).rstrip("\n")
    text = LEAST + f"{section}:\n  {name}: 5\n{where}{written} 5\n"
    line = text.count("\n")
    both = f"a.yaml:4: {old} is 5; this setting is now called {new}, which is set too, at a.yaml:{line}: remove {old}"
    assert complaint(load, text) == both
    assert f"command line: {old}=5: {old} is 5" in complaint(load, LEAST, f"{old}=5", f"{new}=5")


@KEYS
def test_an_old_key_written_with_a_dot_gets_the_new_name(load: Load, old: str, new: str) -> None:
    section, _, name = new.rpartition(".")
    expected = f"a.yaml:3: {old} cannot be one key in a file; write {name}: under {section}:"
    assert complaint(load, LEAST + f"{old}: 5\n") == expected


@VALUES
@pytest.mark.parametrize("style", ["flow", "block"])
@pytest.mark.parametrize("quotes", ["", "'"])
def test_an_old_value_in_a_file_is_refused(load: Load, old: OldValue, style: str, quotes: str) -> None:
    text = nested(old.key, f"{quotes}{old.value}{quotes}", style)
    line = line_of(text, f"{old.key.split('.')[1]}: ")
    assert complaint(load, text) == f"a.yaml:{line}: {old.key} is '{old.value}'; {old.advice}"
    assert old.replacement in old.advice


@VALUES
@pytest.mark.parametrize("quotes", ["", '"'])
def test_an_old_value_on_the_command_line_is_refused(load: Load, old: OldValue, quotes: str) -> None:
    override = f"{old.key}={quotes}{old.value}{quotes}"
    expected = f"command line: {override}: {old.key} is '{old.value}'; {old.advice}"
    assert complaint(load, LEAST, override) == expected


def test_all_old_settings_are_refused_at_once(load: Load) -> None:
    text = LEAST + "log: {every: 5, weights_every: 9}\ncheckpoint: {every: 3}\ntrain: {compile: step}\n"
    lines = complaint(load, text, "data.loader=resident").splitlines()
    keys = ["log.every", "log.weights_every", "checkpoint.every", "train.compile", "data.loader"]
    assert [line.partition(" is ")[0].split(": ")[-1] for line in lines] == keys


@pytest.mark.parametrize(
    ("wrong", "end"),
    [
        ("log.evry=1", "allowed: every_steps, tensorboard, progress, ledger, weights_every_steps"),
        ("log.evey_steps=1", "Did you mean log.every_steps?"),
        ("log.weights_evry=1", "Did you mean log.weights_every_steps?"),
        ("checkpoint.evry=1", "allowed: every_steps, keep_last, keep_best, monitor, mode, split, asynchronous"),
        ("data.loader=residnt", "allowed: auto, in_memory, workers"),
        ("train.compile=stp", "allowed: off, model"),
    ],
)
def test_old_names_are_not_proposed(load: Load, wrong: str, end: str) -> None:
    assert complaint(load, LEAST, wrong).endswith(end)


def test_the_table_leads_to_settings_of_today() -> None:
    known = set(list_keys((Config,)))
    arguments = {key for key in RENAMED_KEYS.values() if ".args." in key}
    assert {key.rpartition(".")[0] for key in arguments} <= known
    assert (set(RENAMED_KEYS.values()) - arguments) | {old.key for old in OLD_VALUES} | set(ADDED_KEYS) <= known
    assert not known & {*RENAMED_KEYS, *REPLACED_KEYS}
    assert {key for replace in REPLACED_KEYS.values() for key in replace(1)} <= known
    reference = format_documentation()
    assert "`train.compile_mode`: default, reduce-overhead, max-autotune, max-autotune-no-cudagraphs" in reference
    assert not [key for key in RENAMED_KEYS if f"`{key}`" in reference]


# What an earlier version wrote

OLD_RUN = """
data: {name: synthetic, loader: resident}
model: {name: lenet}
train: {compile: step, max_steps: 10}
checkpoint: {every: 5}
distributed: {binding: auto}
log:
  every: 7
  weights_every: 9
"""


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(OLD_RUN)
    return tmp_path


def check_translated(config: Config) -> None:
    assert (config.log.every_steps, config.log.weights_every_steps, config.checkpoint.every_steps) == (7, 9, 5)
    assert (config.data.loader, config.train.compile, config.distributed.binding) == ("in_memory", "model", "auto")
    assert config.train.compile_mode == "default"


def test_the_config_of_an_old_run_is_translated(old_run: Path) -> None:
    check_translated(load_run_config(old_run / "config.yaml"))


def test_the_fixture_of_an_old_run_is_read() -> None:
    config = load_run_config(ROOT / "tests/fixtures/run_before_packages/config.yaml")
    assert (config.log.every_steps, config.log.weights_every_steps, config.checkpoint.every_steps) == (5, 5, 5)
    assert (config.data.loader, config.train.compile, config.distributed.binding) == ("in_memory", "off", "auto")


def test_a_run_s_config_given_as_the_file_of_settings_is_translated(old_run: Path) -> None:
    with pytest.raises(ConfigError, match=r"log\.every is 7"):
        load_config(old_run / "config.yaml")
    (old_run / "run.lock").write_text("{}\n")
    check_translated(load_config(old_run / "config.yaml"))
    (old_run / "other.yaml").write_text(OLD_RUN)
    with pytest.raises(ConfigError, match=r"log\.every is 7"):
        load_config(old_run / "other.yaml")


@KEYS
def test_overrides_of_an_old_run_have_the_new_names(old_run: Path, old: str, new: str) -> None:
    value = 0.5 if ".args." in new else 3
    with pytest.raises(
        ConfigError, match=f"command line: {old}={value}: {old} is {value}; this setting is now called {new}"
    ):
        load_run_config(old_run / "config.yaml", [f"{old}={value}"])
    assert flatten(load_run_config(old_run / "config.yaml", [f"{new}={value}"]).model_dump())[new] == value


WIDTHS = [(1, [6, 16], [120, 84]), (4, [24, 64], [480, 336])]


@pytest.mark.parametrize(("width", "channels", "hidden"), WIDTHS)
def test_the_width_of_an_old_run_becomes_channels_and_units(
    load: Load, tmp_path: Path, width: int, channels: list[int], hidden: list[int]
) -> None:
    text = f"data: {{name: synthetic}}\nmodel: {{name: cifar_tutorial, width: {width}}}\n"
    (tmp_path / "config.yaml").write_text(text)
    now = flatten(load_run_config(tmp_path / "config.yaml").model_dump())
    assert (now["model.channels"], now["model.hidden"]) == (channels, hidden)
    before = {key: value for key, value in now.items() if key not in ("model.channels", "model.hidden")}
    assert translate_settings({**before, "model.width": width}) == now
    advice = f"write model.channels={channels} and model.hidden={hidden}"
    assert complaint(load, text) == f"a.yaml:2: model.width is {width}; this setting was replaced: {advice}"
    assert complaint(load, text.replace(f", width: {width}", ""), f"model.width={width}").endswith(advice)


@pytest.mark.parametrize("wrong", ["four", "0", "2.5", "null", "[1, 2]"])
def test_a_width_that_was_never_allowed_is_refused_all_the_same(load: Load, tmp_path: Path, wrong: str) -> None:
    text = f"data: {{name: synthetic}}\nmodel: {{name: cifar_tutorial, width: {wrong}}}\n"
    assert "for 1 write model.channels=[6, 16]" in complaint(load, text)
    (tmp_path / "config.yaml").write_text(text)
    assert load_run_config(tmp_path / "config.yaml").model == CifarTutorial(name="cifar_tutorial")


def test_both_names_in_the_config_of_a_run_are_refused(old_run: Path) -> None:
    (old_run / "config.yaml").write_text(OLD_RUN + "  every_steps: 7\n")
    with pytest.raises(ConfigError, match=r"log\.every is 7; .*, which is set too, at .*:10: remove log\.every"):
        load_run_config(old_run / "config.yaml")


def test_settings_of_an_old_checkpoint_are_translated(old_run: Path) -> None:
    config = load_run_config(old_run / "config.yaml")
    now = flatten(config.model_dump())
    before = {key: value for key, value in now.items() if key not in (*RENAMED_KEYS.values(), *ADDED_KEYS)}
    before |= {old: now[new] for old, new in RENAMED_KEYS.items() if new in now}
    before |= dict(UNSET)
    before |= {old.key: old.value for old in OLD_VALUES}
    assert translate_settings(before) == now


def test_settings_of_today_are_not_changed() -> None:
    flat = {**ADDED_KEYS, "train.compile_mode": "max-autotune", "optim.betas": [0.9, 0.999], "data.augment.flip": True}
    assert translate_settings(flat) == flat


def test_code_that_augments_was_a_text_and_is_a_section(tmp_path: Path) -> None:
    assert translate_settings({"data.augment": "a.py:f"}) == {**ADDED_KEYS, "data.augment.name": "a.py:f"}
    path = tmp_path / "config.yaml"
    path.write_text("data: {name: synthetic, augment: 'a.py:f'}\nmodel: {name: lenet}\n")
    assert flatten(load_run_config(path).model_dump())["data.augment.name"] == "a.py:f"


def test_a_written_config_has_the_new_names(old_run: Path) -> None:
    written = flatten(yaml.safe_load(to_yaml(load_run_config(old_run / "config.yaml"))))
    assert not set(RENAMED_KEYS) & set(written)
    assert written["train.compile_mode"] == "default"


def test_a_mode_needs_a_compiled_network(load: Load) -> None:
    for mode in ("reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"):
        given = f"train.compile_mode={mode}"
        expected = (
            f"command line: {given}: train.compile_mode is {mode}, but train.compile is off: set train.compile=model"
        )
        assert complaint(load, LEAST, given) == expected
        assert not list(find_contradictions(load(LEAST, given, "train.compile=model")))
    assert load(LEAST, "train.compile_mode=default").train.compile_mode == "default"
