"""Settings from files and command lines: what is taken, what is refused, and in which words."""

import os
import subprocess
import sys
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from dist_train.errors import ConfigError
from dist_train.settings.loader import load_config, to_yaml
from dist_train.settings.reference import settings_reference
from dist_train.settings.schema import SCHEDULE_SETTINGS, Config, Normalize, Section, list_keys, section_classes
from tests.unit.dist_train.settings.conftest import LEAST, Load, complaint

slow_machine = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

# What is taken


def test_least_file_gets_the_defaults_of_its_surroundings(load: Load) -> None:
    config = load(LEAST)
    assert (config.run.name, config.run.dir) == ("a", "runs/a")
    assert config.data.root == "data"
    assert config.data.cache == str(Path("~/.cache/dist-train").expanduser())
    assert config.optim.name == "sgd"
    assert config.train.epochs == 10


def test_environment_moves_root_and_cache(load: Load) -> None:
    config = load(LEAST, DIST_TRAIN_DATA="/some/data", XDG_CACHE_HOME="/some/cache")
    assert (config.data.root, config.data.cache) == ("/some/data", "/some/cache/dist-train")


def test_environment_of_the_process_counts_where_none_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIST_TRAIN_DATA", "/some/data")
    (tmp_path / "a.yaml").write_text(LEAST)
    assert load_config(tmp_path / "a.yaml").data.root == "/some/data"


def test_home_is_expanded(load: Load) -> None:
    config = load(LEAST, "data.root=~/images", "data.cache=~", "run.dir=~/runs")
    assert config.data.root == str(Path.home() / "images")
    assert config.data.cache == str(Path.home())
    assert config.run.dir == str(Path.home() / "runs")


def test_variable_that_is_no_text_is_named(load: Load) -> None:
    text = complaint(load, LEAST, DIST_TRAIN_DATA="\udcff", XDG_CACHE_HOME="~nobody-is-called-so")
    assert "$DIST_TRAIN_DATA: data.root is '\\udcff'; it must be text" in text
    assert "$XDG_CACHE_HOME: data.cache is '~nobody-is-called-so/dist-train'; nobody knows" in text


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
    assert whole.data.normalize == Normalize(mean=(0.5,), std=(0.25,))
    assert whole.data.augment.flip


def test_part_of_a_mapping_is_overridden_alone(load: Load) -> None:
    text = "data: {name: synthetic, normalize: {mean: [0.5], std: [0.25]}}\nmodel: {name: lenet}\n"
    assert load(text, "data.normalize.std=[2.0]").data.normalize == Normalize(mean=(0.5,), std=(2.0,))
    assert load(text, "data.normalize=auto").data.normalize == "auto"


def test_parts_on_the_command_line_replace_a_word_of_the_file(load: Load) -> None:
    text = "data: {name: synthetic, normalize: auto}\nmodel: {name: lenet}\n"
    config = load(text, "data.normalize.mean=[0.5]", "data.normalize.std=[0.25]")
    assert config.data.normalize == Normalize(mean=(0.5,), std=(0.25,))


@pytest.mark.parametrize("name", ["2024", "1.5", "true", "null-1", "1e3"])
def test_text_of_a_command_line_needs_no_quotes(load: Load, name: str) -> None:
    assert load(LEAST, f"run.name={name}").run.name == name


@pytest.mark.parametrize("path", ["[odd", "a: b", "*x", "!x", "x=y", "'", "a #b", " a", "a\nb", "'a'", "null"])
def test_path_of_a_command_line_is_taken_as_it_stands(load: Load, path: str) -> None:
    assert load(LEAST, f"run.resume={path}").run.resume == path


def test_null_is_not_given(load: Load) -> None:
    text = LEAST + "train: {max_steps: 3}\n"
    assert load(text, "train.max_steps=null") == load(text, "train.max_steps=") == load(LEAST)


# What is refused, line by line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim:\n  lrr: 1.0", "a.yaml:4: optim.lrr is not a setting. Did you mean optim.lr?"),
        ("train: {lr: 1.0}", "a.yaml:3: train.lr is not a setting. Did you mean optim.lr?"),
        ("optim: {epochs: 3}", "a.yaml:3: optim.epochs is not a setting. Did you mean train.epochs?"),
        ("lr: 1.0", "a.yaml:3: lr is not a setting. Did you mean optim.lr?"),
        ("optim.lr: 1.0", "a.yaml:3: optim.lr cannot be one key in a file; write lr: under optim:"),
        ("optimizer: {lr: 1.0}", "a.yaml:3: optimizer is not a setting. Did you mean optim?"),
        ("eval: {zzz: 1}", "a.yaml:3: eval.zzz is not a setting; allowed: every_epochs"),
        ("log: {name: 1}", "a.yaml:3: log.name is not a setting. Did you mean run.name or data.name or model.name"),
        (
            "optim: {name: adam,\n  momentum: 0.9}",
            (
                "a.yaml:4: optim.momentum is not a setting of optim.name adam; "
                "adam takes: betas, eps, weight_decay, amsgrad, decoupled_weight_decay"
            ),
        ),
        (
            "optim:\n  betas: [0.9, 0.9]",
            "a.yaml:4: optim.betas is not a setting of optim.name sgd; sgd takes: momentum",
        ),
        ("train: {epochs: 1,\n  epochs: 2}", "a.yaml:4: train.epochs is set twice, first at a.yaml:3"),
        ("model: {name: lenet}", "a.yaml:3: model is set twice, first at a.yaml:2"),
        ("1: 2", "a.yaml:3: the key 1 is not the name of a setting"),
        ("? [a]\n: 2", "a.yaml:3: the key ['a'] is not the name of a setting"),
        ('"a\\nb": 2', "a.yaml:3: the key 'a\\nb' is not the name of a setting"),
        ("train: 3", "a.yaml:3: train is 3; it must be a mapping of epochs, max_steps"),
        ("train: [1, a]", "a.yaml:3: train is [1, 'a']; it must be a mapping"),
        ("<<: {train: {epochs: 3}}", "a.yaml:3: << is not a setting"),
        ("log:\n  every_steps: 0", "a.yaml:4: log.every_steps is 0; it must be a whole number of at least 1"),
        ("log: {every_steps: 1.5}", "log.every_steps is 1.5; it must be a whole number"),
        ("log: {every_steps: true}", "log.every_steps is true; it must be a whole number"),
        ("log: {every_steps: 010}", "log.every_steps is '010'; it must be a whole number"),
        ("log: {every_steps: 1:30}", "log.every_steps is '1:30'; it must be a whole number"),
        ("log: {every_steps: {a: [b]}}", "log.every_steps is {a: ['b']}; it must be a whole number"),
        ("log: {every_steps: " + "9" * 5000 + "}", "log.every_steps is '9999"),
        ("train: {epochs: three}", "train.epochs is 'three'; it must be a whole number of at least 1, or null"),
        ("optim: {lr: -1.0}", "a.yaml:3: optim.lr is -1.0; it must be a number of at least 0"),
        ("optim: {lr: .inf}", "optim.lr is '.inf'; it must be a number"),
        ("optim: {lr: nan}", "optim.lr is 'nan'; it must be a number"),
        ("optim: {lr: 1.0e999}", "optim.lr is '1.0e999'; it must be a number"),
        ("optim: {lr: true}", "optim.lr is true; it must be a number"),
        (
            "optim: {lr: 3e-4}",
            (
                "a.yaml:3: optim.lr is the text '3e-4'; YAML takes a number with an exponent for one only when it has "
                "a point: write 3.0e-4"
            ),
        ),
        ('optim: {lr: "0.1"}', "a.yaml:3: optim.lr is the text '0.1'; remove the quotes"),
        ("optim: {name: adam, betas: [9e-1, 0.9]}", "optim.betas is ['9e-1', 0.9]; YAML takes"),
        (
            "optim: {name: adam, betas: [0.9]}",
            "optim.betas is [0.9]; it must be a list of 2, each a number of at least",
        ),
        ("optim: {name: adam, betas: [0.9, 1]}", "optim.betas is [0.9, 1]; it must be a list of 2"),
        ("optim: {name: adm}", "optim.name is 'adm'; allowed: sgd, adam, adamw"),
        ("optim: {name: AdamW}", "Did you mean adamw?"),
        ("optim: {name: [adam]}", "optim.name is ['adam']; allowed: sgd"),
        ("train: {precision: fp8}", "train.precision is 'fp8'; allowed: auto, fp32, tf32, bf16, fp16"),
        ("train: {precision: fp-16}", "Did you mean fp16?"),
        ("train: {channels_last: true}", "train.channels_last is true; allowed: auto, on, off"),
        ("train: {sync_batchnorm: yes}", "train.sync_batchnorm is 'yes'; it must be true or false"),
        ("distributed: {threads: 0}", "distributed.threads is 0; it must be auto, or a whole number of at least 1"),
        (
            "distributed: {threads: atuo}",
            "distributed.threads is 'atuo'; it must be auto, or a whole number of at least",
        ),
        ("run: {name: a b}", "run.name is 'a b'; it must be text that matches ^[A-Za-z0-9_]"),
        ("run: {name: 2024}", "run.name is 2024; it must be text: put it in quotes"),
        ("run: {dir: ''}", "run.dir is ''; it must be text that is not empty"),
        ('run: {dir: "a\\0"}', "a.yaml:3: the character NUL cannot be in a setting"),
        ("run: {dir: ~nobody-is-called-so/x}", "run.dir is '~nobody-is-called-so/x'; nobody knows the home directory"),
        ('run: {dir: "\\ud800"}', "run.dir is '\\ud800'; it must be text"),
        ("optim: {nesterov: true}", "a.yaml:3: optim.nesterov needs optim.momentum above 0"),
        ("optim: {schedule: multistep}", "a.yaml:3: optim.milestones is empty; optim.schedule multistep needs"),
    ],
)
def test_fault_of_a_file(load: Load, text: str, message: str) -> None:
    lines = complaint(load, LEAST + text + "\n").splitlines()
    assert len(lines) == 1
    assert message in lines[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {name: lenet}", "a.yaml: data.name is missing; allowed: mnist, fashion_mnist"),
        ("data:\nmodel: {name: lenet}", "a.yaml:1: data.name is missing; allowed: mnist"),
        ("data: {name: digits}\nmodel:\n  width: 3", "a.yaml:2: model.name is missing; allowed: lenet"),
        (
            "data: {name: digits}\nmodel: {name: lenett}",
            (
                "a.yaml:2: model.name is 'lenett'; allowed: lenet, mnist_example, mnist_cnn, cifar_tutorial, resnet18, "
                "torchvision/<model>. Did you mean lenet?"
            ),
        ),
        ("data: {name: digits}\nmodel: {name: resnet50}", "Did you mean torchvision/resnet50?"),
        ("data: {name: digits}\nmodel: {name: torchvision/resnet5}", "Did you mean torchvision/resnet50?"),
        ("data: {name: digits, shape: [1]}\nmodel: {name: lenet}", "data.shape is not a setting of data.name digits"),
        ("data: {name: digits}\nmodel: {name: resnet18, width: 2}", "resnet18 has none of its own"),
        (
            "data: {name: digits, normalize: {}}\nmodel: {name: lenet}",
            "data.normalize.mean is missing; it must be a list",
        ),
        (
            "data: {name: digits, normalize: {mean: [1]}}\nmodel: {name: lenet}",
            "a.yaml:1: data.normalize.std is missing",
        ),
        (
            "data: {name: digits, normalize: atuo}\nmodel: {name: lenet}",
            "it must be auto, or a mapping of mean, std. Did",
        ),
        ("data: {name: digits, augment: {flop: 1}}\nmodel: {name: lenet}", "Did you mean data.augment.flip?"),
        (
            "data: {name: digits}\nmodel: {name: lenet, num_classes: 7}",
            "model.num_classes is 7, but data.name digits has",
        ),
    ],
)
def test_fault_of_a_whole_file(load: Load, text: str, message: str) -> None:
    assert message in complaint(load, text)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=3", "command line: optim.lrr=3: optim.lrr is not a setting. Did you mean optim.lr?"),
        (
            "chekpoint.evry=3",
            "command line: chekpoint.evry=3: chekpoint.evry is not a setting. Did you mean checkpoint.e",
        ),
        ("x.y=3", "x.y is not a setting; allowed: run, data"),
        ("optim.lr", "command line: optim.lr: is not of the form key=value"),
        ("=3", "command line: =3: is not of the form key=value"),
        ("optim=3", "command line: optim=3: optim is a section; set one of its keys: optim.name, optim.lr"),
        ("optim.lr=-1", "command line: optim.lr=-1: optim.lr is -1; it must be a number of at least 0"),
        ('optim.lr="\\UFFFFFFFF"', "optim.lr is '\"\\\\UFFFFFFFF\"'; it must be a number"),
        ("optim.lr=0x1", "optim.lr is '0x1'; it must be a number"),
        ("optim.lr=!!python/object:x 1", "optim.lr is '!!python/object:x 1'; it must be a number"),
        ("optim.betas=[0.9, 0.9]", "optim.betas is not a setting of optim.name sgd"),
        ("data.normalize.mean=[0.5]", "data.normalize.mean=[0.5]: data.normalize.std is missing"),
        ("data.normalize={mean: [1], std: [0]}", "data.normalize.std is [0]; it must be a list"),
        ("data.normalize={mean: [1], mean: [2]}", "data.normalize is '{mean: [1], mean: [2]}'; it must be auto"),
        ("optim.nesterov=true", "command line: optim.nesterov=true: optim.nesterov needs"),
        ("run.name=a\nb", "command line: run.name=a\\nb: run.name is "),
        ("run.dir=\udcff", "command line: run.dir=\\udcff: run.dir is '\\udcff'; it must be text"),
    ],
)
def test_fault_of_a_command_line(load: Load, override: str, message: str) -> None:
    lines = complaint(load, LEAST, override).splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_doubled_override_is_refused_by_name(load: Load) -> None:
    assert "log.every_steps is set twice on the command line" in complaint(
        load, LEAST, "log.every_steps=1", "log.every_steps=2"
    )
    text = complaint(load, LEAST, "data.augment={flip: true}", "data.augment.cutout=2")
    assert "data.augment.cutout and data.augment are both on the command line" in text


def test_another_optimizer_does_not_take_the_arguments_of_the_files(load: Load) -> None:
    text = LEAST + "optim:\n  name: sgd\n  momentum: 0.9\n"
    assert complaint(load, text, "optim.name=adam").startswith(
        "a.yaml:5: optim.momentum is not a setting of optim.name"
    )


def test_class_that_is_unknown_hides_no_other_fault_and_makes_none(load: Load) -> None:
    text = LEAST + "optim: {name: adm, betas: [0.9, 0.9], lr: -1.0, zzz: 3}\n"
    lines = complaint(load, text).splitlines()
    assert [line.split()[1] for line in lines] == ["optim.name", "optim.lr", "optim.zzz"]


def test_all_faults_at_once_in_the_order_of_reading(load: Load) -> None:
    text = "data: {name: digits, globl_batch: 3}\nlog: {every_steps: 0}\nmodel: {name: lenet}\nlog: {}\n"
    lines = complaint(load, text, "optim.lr=x", "eval.every_epoch=1").splitlines()
    starts = [
        "a.yaml:1: data.globl_batch",
        "a.yaml:2: log.every_steps",
        "a.yaml:4: log is set twice",
        "command line: optim.lr=x",
    ]
    assert [line.startswith(start) for line, start in zip(lines, starts, strict=False)] == [True] * 4
    assert lines[4:] == [
        "command line: eval.every_epoch=1: eval.every_epoch is not a setting. Did you mean eval.every_epochs?"
    ]


def test_endless_faults_are_cut(load: Load) -> None:
    lines = complaint(load, LEAST + "".join(f"k{number}: 1\n" for number in range(1000))).splitlines()
    assert len(lines) == 51
    assert all(len(line) < 200 for line in lines)


# What is no file of settings


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.yaml: is empty"),
        (b"# a comment\n", "a.yaml: is empty"),
        (b"---\n", "a.yaml: is empty"),
        (b"null\n", "a.yaml: is empty"),
        (b"\x7fELF\x02\x01\x00\x00", "a.yaml:1: is not text, but holds the control character 0x7f"),
        (b"a: \x00\n", "a.yaml:1: is not text, but holds the control character 0x00"),
        (b"a: \xff\n", "a.yaml: is not text in UTF-8"),
        ("a: 1".encode("utf-16"), "a.yaml: is not text in UTF-8"),
        (b"a: 1\nb: \x1b[0m\n", "a.yaml:2: is not text, but holds the control character 0x1b"),
        (b"#" * 10**7, "a.yaml: is larger than 1 MB; that is not a file of settings"),
        (b"\xff" * 10**7, "a.yaml: is larger than 1 MB"),
        (b"- a\n- b\n", "a.yaml: holds no settings at its top level"),
        (b"hello\n", "a.yaml: holds no settings at its top level"),
        (b"a: 1\nb: c: d\n", "a.yaml:2: is not YAML, in column 5: mapping values are not allowed here"),
        (b"a:\n\t- b\n", "a.yaml:2: is not YAML, in column 1: found character"),
        (b"a: [1,\n", "a.yaml:2: is not YAML, in column 1: "),
        (b'a: "\\UFFFFFFFF"\n', "a.yaml: is not YAML: "),
        (b"a: 1\n---\nb: 2\n", "a.yaml:2: several documents in one file; a run has one"),
        (b"a: !!python/object/apply:os.system [x]\n", "a.yaml:1: tags (!) are not taken"),
        (b"a: 1\nb: &x {c: 1}\nd: *x\n", "a.yaml:2: anchors and aliases (&, *) are not taken"),
        (b"a: 1\nb: *x\n", "a.yaml:2: anchors and aliases"),
        (b"a: &x 1\nb:\n  <<: *x\n", "a.yaml:1: anchors and aliases"),
        (b"a: " + b"[" * 100_000, "a.yaml:1: nested deeper than 20 levels"),
        (b"a: " + b"{x: " * 100_000, "a.yaml:1: nested deeper than 20 levels"),
    ],
)
def test_no_file_of_settings(load: Load, content: bytes, message: str) -> None:
    text = complaint(load, content, "optim.lr=1")
    assert text.startswith(message)
    assert "\n" not in text
    assert len(text) < 120


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file or directory$"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory$"):
        load_config(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(LEAST)
    path.chmod(0)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        load_config(path)


# Properties

FRAGMENTS = [
    "a",
    "data",
    "name",
    "lr",
    ":",
    ": ",
    "\n",
    "  ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    ",",
    "'",
    '"',
    "&a ",
    "*a",
    "!!x ",
]
FRAGMENTS += [
    "#",
    "|",
    ">",
    "?",
    "%",
    "---",
    "...",
    "~",
    "\t",
    "1",
    "3e-4",
    "\\",
    "\\U00110000",
    "%YAML 1.1",
    "\0",
    "é",
]


def taken_or_refused(load: Load, content: str | bytes, *overrides: str) -> None:
    try:
        load(content, *overrides)
    except ConfigError as error:
        assert str(error).isprintable() or "\n" in str(error)  # noqa: PT017  a Config is fine as well
        assert "pydantic" not in str(error) or "pydantic" in str((content, overrides))  # noqa: PT017


@slow_machine
@given(content=st.binary() | st.text() | st.lists(st.sampled_from(FRAGMENTS)).map("".join))
@example(content="%YAML " + "9" * 5000 + ".1\n")
def test_any_file_is_taken_or_refused(load: Load, content: str | bytes) -> None:
    taken_or_refused(load, content)


keys = st.sampled_from([part for key in list_keys((Config,)) for part in key.split(".")]) | st.text(max_size=3)
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from(["adam", "on"])
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4))
nested = st.dictionaries(
    st.sampled_from([*Config.model_fields]) | keys, st.dictionaries(keys, values) | values, max_size=5
)


@slow_machine
@given(tree=nested)
def test_any_tree_of_settings_is_taken_or_refused(load: Load, tree: dict[str, Any]) -> None:
    taken_or_refused(load, yaml.safe_dump(tree))


any_override = st.text() | st.builds(
    "{}={}".format,
    st.sampled_from(list_keys((Config,))) | st.text(),
    st.text() | st.lists(st.sampled_from(FRAGMENTS), max_size=6).map("".join) | values.map(str),
)


@slow_machine
@given(overrides=st.lists(any_override, max_size=3))
def test_any_command_line_is_taken_or_refused(load: Load, overrides: list[str]) -> None:
    taken_or_refused(load, LEAST, *overrides)


DEPENDENT = {
    "shards",
    "schedule",
    *SCHEDULE_SETTINGS,
    "nesterov",
    "num_classes",
    "sync_batchnorm",
    "compression",
    "compile_mode",
}


def allowed(annotation: Any, metadata: Sequence[Any] = ()) -> st.SearchStrategy[Any]:
    """Values that an annotation of the settings allows."""
    parts, origin = get_args(annotation), get_origin(annotation)
    if origin is Annotated:
        return allowed(parts[0], parts[1:])
    if origin is Literal:
        return st.sampled_from(parts)
    if origin in (Union, UnionType):
        return st.one_of(*map(allowed, parts))
    if origin is tuple:
        return st.tuples(*map(allowed, [parts[0]] * 3 if Ellipsis in parts else parts))
    return allowed_section(annotation) if issubclass(annotation, Section) else allowed_scalar(annotation, metadata)


def allowed_section(section: type[Section]) -> st.SearchStrategy[Section]:
    """Settings of this section, without those that contradict others as a rule."""
    fields = {name: info for name, info in section.model_fields.items() if name not in DEPENDENT}
    strategies = {name: allowed(info.annotation, info.metadata) for name, info in fields.items()}
    required = {name: strategy for name, strategy in strategies.items() if fields[name].is_required()}
    others = {name: strategy for name, strategy in strategies.items() if name not in required}
    return st.fixed_dictionaries(required, optional=others).map(section.model_validate)


def allowed_scalar(kind: type, metadata: Sequence[Any]) -> st.SearchStrategy[Any]:
    limit = limits(metadata)
    low, high = limit.get("ge", limit.get("gt")), limit.get("le", limit.get("lt"))
    if kind is int:
        return st.integers(low, 10**29 if high is None else high - ("lt" in limit))
    if kind is float:
        numbers = st.floats(low, high, exclude_min="gt" in limit, exclude_max="lt" in limit, allow_nan=False)
        return numbers.filter(isfinite)
    if kind is str:
        return st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9_.-]*\Z") if "pattern" in limit else paths
    return st.booleans() if kind is bool else st.none()


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
paths = (texts | st.sampled_from(["on", "1.0e4", "0.1", "null", "12:30:00"])).filter(lambda text: text[0] != "~")


def limits(metadata: Sequence[Any]) -> dict[str, Any]:
    checks = [check for item in metadata for check in (item.metadata if isinstance(item, FieldInfo) else [item])]
    keys = ("ge", "gt", "le", "lt", "pattern")
    return {key: getattr(check, key) for check in checks for key in keys if getattr(check, key, None) is not None}


@slow_machine
@given(config=allowed_section(Config))
def test_written_settings_load_as_they_were(load: Load, config: Config) -> None:
    if config.train.epochs is None and config.train.max_steps is None:
        config = config.model_copy(update={"train": config.train.model_copy(update={"epochs": 10})})
    assert load(to_yaml(config)) == config


@pytest.mark.parametrize(
    "overrides",
    [
        ["optim.schedule=multistep", "optim.milestones=[3, 4e1]", "optim.gamma=1e-2"],
        ["optim.schedule=onecycle", "optim.pct_start=0.1", "optim.final_div_factor=1e20"],
        ["optim.nesterov=true", "optim.momentum=0.9", "train.sync_batchnorm=true"],
        ["train.compile=model", "train.compile_mode=max-autotune"],
        ["data.num_classes=3", "model.num_classes=3", "train.epochs=null", "train.max_steps=1"],
    ],
)
def test_dependent_settings_load_as_they_were(load: Load, overrides: list[str]) -> None:
    config = load(LEAST, *overrides)
    assert config != load(LEAST)
    assert load(to_yaml(config)) == config


# What is printed


def test_resolved_settings_come_in_the_order_of_config(load: Load) -> None:
    text = to_yaml(load(LEAST, "train.channels_last=on", "train.compile=off", "optim.name=adam", "optim.eps=1e-9"))
    tree = yaml.safe_load(text)
    assert list(tree) == list(Config.model_fields)
    assert all(next(iter(tree[section])) == "name" for section in ("run", "data", "model", "optim"))
    assert "channels_last: 'on'\n" in text
    assert "compile: 'off'\n" in text
    assert "betas: [0.9, 0.999]\n" in text
    assert tree["optim"]["eps"] == 1e-9


def test_reference_names_every_setting_once_and_its_default() -> None:
    reference = settings_reference()
    for key in list_keys((Config,)):
        assert f"`{key}`" in reference or f"`{key.removeprefix('optim.')}` " in reference, key
    for section, info in Config.model_fields.items():
        assert f"\n## {section}\n" in reference
        assert section_classes(info.annotation)
    lines = reference.splitlines()
    assert "- `data.global_batch`: a whole number of at least 1. Default: `64`. Samples per optimizer step" in reference
    assert "- with `optim.name` rprop, by default: `lr` 0.01, `etas` [0.5, 1.2], `step_sizes` [1.0e-06, 50.0]" in lines
    assert len({line for line in lines if line}) == len([line for line in lines if line])


def test_loading_needs_no_torch() -> None:
    code = "import sys, dist_train.settings.loader; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
