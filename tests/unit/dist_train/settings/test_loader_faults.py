"""Settings that are refused, with the text of the message."""

import json
from pathlib import Path

import pytest

from dist_train.errors import ConfigError
from dist_train.settings.loader import load_config
from dist_train.settings.schema import Config, list_keys
from tests.unit.dist_train.settings.conftest import LEAST, Load, complaint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim:\n  lrr: 1.0", "a.yaml:4: optim.lrr is not a setting. Did you mean optim.lr?"),
        ("train: {lr: 1.0}", "a.yaml:3: train.lr is not a setting. Did you mean optim.lr?"),
        ("optim: {epochs: 3}", "a.yaml:3: optim.epochs is not a setting. Did you mean train.epochs?"),
        ("optim: {lr:1.0}", "a.yaml:3: optim.lr:1.0 is not a setting; write a space after the colon, as in lr: 0.1"),
        ("lr: 1.0", "a.yaml:3: lr is not a setting. Did you mean optim.lr?"),
        ("optim.lr: 1.0", "a.yaml:3: optim.lr cannot be one key in a file; write lr: under optim:"),
        ("optimizer: {lr: 1.0}", "a.yaml:3: optimizer is not a setting; here it is the section optim"),
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
        (
            "train: {epochs: three}",
            "train.epochs is 'three'; it must be a whole number of at least 1 and at most 1000000000, or null",
        ),
        ("optim: {lr: -1.0}", "a.yaml:3: optim.lr is -1.0; it must be a number of at least 0"),
        ("optim: {lr: .inf}", "optim.lr is '.inf'; it must be a number"),
        ("optim: {lr: nan}", "optim.lr is 'nan'; it must be a number"),
        ("optim: {lr: 1.0e999}", "optim.lr is '1.0e999'; it must be a number"),
        ("optim: {lr: true}", "optim.lr is true; it must be a number"),
        (
            "optim: {lr: 3e-4}",
            (
                "a.yaml:3: optim.lr is the text '3e-4'; YAML reads a number with an exponent as text unless it has a "
                "decimal point: write 3.0e-4"
            ),
        ),
        ('optim: {lr: "0.1"}', "a.yaml:3: optim.lr is the text '0.1'; remove the quotes"),
        ("optim: {name: adam, betas: [9e-1, 0.9]}", "optim.betas is ['9e-1', 0.9]; YAML reads"),
        (
            "optim: {name: adam, betas: [0.9]}",
            "optim.betas is [0.9]; it must be a list of 2, each a number of at least",
        ),
        ("optim: {name: adam, betas: [0.9, 1]}", "optim.betas is [0.9, 1]; it must be a list of 2"),
        ("optim: {name: adm}", "optim.name is 'adm'; allowed: sgd, adam, adamw"),
        ("optim: {name: AdamW}", "Did you mean adamw?"),
        ("optim: {name: [adam]}", "optim.name is ['adam']; allowed: sgd"),
        ("train: {precision: fp8}", "train.precision is 'fp8'; it must be auto, fp32, tf32, bf16, fp16, or null"),
        ("train: {precision: fp-16}", "Did you mean fp16?"),
        ("train: {channels_last: true}", "train.channels_last is true; allowed: auto, on, off"),
        ("train: {sync_batchnorm: yes}", "train.sync_batchnorm is 'yes'; it must be auto, or true or false"),
        ("distributed: {threads: 0}", "distributed.threads is 0; it must be auto, or a whole number of at least 1"),
        (
            "distributed: {threads: atuo}",
            "distributed.threads is 'atuo'; it must be auto, or a whole number of at least",
        ),
        ("run: {name: a b}", "run.name is 'a b'; it must be text that matches ^[A-Za-z0-9_]"),
        ("run: {name: 2024}", "run.name is 2024; it must be text: put it in quotes"),
        ("run: {dir: ''}", "run.dir is ''; it must be text that is not empty"),
        ('run: {dir: "a\\0"}', "a.yaml:3: a setting cannot contain the character NUL"),
        (
            "run: {dir: ~nobody-is-called-so/x}",
            "run.dir is '~nobody-is-called-so/x'; the home directory at its start is unknown",
        ),
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
        ("data: {name: digits}\nmodel: {name: lenett}", "a.yaml:2: model.name is 'lenett'; allowed: lenet, mnist_"),
        (
            "data: {name: digits}\nmodel: {name: lenett}",
            "torchvision/<model>, timm/<model>, a reference. Did you mean lenet?",
        ),
        ("data: {name: digits}\nmodel: {name: resnet50}", "Did you mean torchvision/resnet50?"),
        ("data: {name: digits}\nmodel: {name: torchvision/resnet5}", "Did you mean torchvision/resnet50?"),
        ("data: {name: digits, shape: [1]}\nmodel: {name: lenet}", "data.shape is not a setting of data.name digits"),
        ("data: {name: digits}\nmodel: {name: resnet18, dropout: 0.5}", "resnet18 takes: num_classes"),
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
        ("optim=3", "command line: optim=3: optim.name is 3; allowed: sgd, adam"),
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
        ("run.dir=\ud800", "command line: run.dir=\\ud800: run.dir is '\\ud800'; it must be text"),
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
    assert "data.augment.cutout and data.augment are both set on the command line" in text


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
    lines = complaint(load, LEAST + "".join(f"k{number}: 1\n" for number in range(900))).splitlines()
    assert len(lines) == 51
    assert all(len(line) < 200 for line in lines)


GROUPS = """
optim:
  name: muon
  groups:
    - {match: ["*.bias", "*norm*"], weight_decay: 0.0, betas: [0.5, 0.5], momentum: 0.8}
    - {match: ["head.*"], lr: 0.1, optimizer: rest, schedule: linear}
    - match: ["fc*"]
      FAULT
"""


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("momentun: 0.1", "optim.groups[2].momentun is not a setting. Did you mean optim.groups[2].momentum?"),
        ("lr: -1", "optim.groups[2].lr is -1; it must be a number of at least 0, or null"),
        ("warmup_epochs: 1", "optim.groups[2].warmup_epochs is not a setting. Did you mean optim.warmup_epochs?"),
        ("schedule: cosin", "optim.groups[2].schedule is 'cosin'; it must be constant, "),
        ("optimizer: adam", "optim.groups[2].optimizer is 'adam'; it must be rest, or null"),
    ],
)
def test_a_fault_in_a_list_of_sections_has_its_line(load: Load, fault: str, message: str) -> None:
    text = LEAST + GROUPS.replace("FAULT", fault)
    assert complaint(load, text).startswith(f"a.yaml:10: {message}")
    assert len(load(text.replace(fault, "lr: 1.0")).optim.groups) == 3


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ("3", "optim.groups is 3; it must be a list, each a mapping of match, schedule, lr"),
        ("[a]", "optim.groups is ['a']; it must be a list, each a mapping of match, schedule, lr"),
        ("[{lr: 0.1}]", "optim.groups[0].match is missing; it must be a list that is not empty"),
        ("[{match: []}]", "optim.groups[0].match is []; it must be a list that is not empty"),
    ],
)
def test_a_fault_in_a_list_of_sections_on_the_command_line(load: Load, groups: str, message: str) -> None:
    assert message in complaint(load, LEAST, f"optim.groups={groups}")


@pytest.mark.parametrize(("name", "reason"), [("lbfgs", "by a closure"), ("SparseAdam", "sparse gradients only")])
def test_an_optimizer_that_can_t_work_here_is_refused_with_the_reason(load: Load, name: str, reason: str) -> None:
    text = complaint(load, LEAST, f"optim.name={name}")
    assert f"optim.name is '{name}', which is not supported: " in text
    assert reason in text


def test_no_message_shows_characters_that_control_a_terminal(tmp_path: Path) -> None:
    """Text of the user stands in messages of all kinds, also where each setting is valid alone."""
    path = tmp_path / "a.yaml"
    path.write_text(LEAST)
    hostile, refused = "a\x1b[2J\nFORGED: done\u202e", 0
    for key in list_keys((Config,)):
        for text in (hostile, json.dumps([hostile])):
            try:
                load_config(path, [f"{key}={text}"])
            except ConfigError as error:
                refused += 1
                for line in str(error).splitlines():
                    assert line.isprintable(), key
                    assert not line.startswith("FORGED"), key
    assert refused > 150
