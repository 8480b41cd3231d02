"""Which parameters are in which group, and patterns that are refused."""

from typing import Any

import pytest
import torch
from torch import nn

from dist_train.errors import ConfigError
from dist_train.optim.build import build_optimizer
from dist_train.optim.groups import ParameterGroup, find_groups, format_groups
from dist_train.settings.schema.optim import SGD, Muon, Optim


class Net(nn.Module):
    """A filter, a norm, a matrix and a head whose weight is that of the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.conv = nn.Conv2d(2, 3, 3)
        self.norm1 = nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, 4)
        self.head = nn.Linear(4, 5)
        self.head.weight = self.embedding.weight
        self.frozen = nn.Parameter(torch.zeros(2), requires_grad=False)


def sgd(*groups: dict[str, Any], **more: Any) -> SGD:
    return SGD.model_validate({"name": "sgd", "lr": 0.5, "weight_decay": 0.1, "groups": groups, **more})


def muon(*groups: dict[str, Any]) -> Muon:
    return Muon.model_validate({"name": "muon", "lr": 0.02, "groups": groups})


NO_DECAY = {"match": ("*.bias", "*norm*"), "weight_decay": 0.0}
HEAD = {"match": ("head.*",), "lr": 0.1}


def names(groups: list[ParameterGroup]) -> list[str]:
    return [" ".join(group.parameters) for group in groups]


def test_parameters_that_no_pattern_matches_are_the_first_group() -> None:
    default, biases = find_groups(sgd(NO_DECAY), Net())
    assert names([default, biases]) == [
        "embedding.weight conv.weight fc.weight",
        "conv.bias norm1.weight norm1.bias fc.bias head.bias",
    ]
    assert (default.arguments["weight_decay"], biases.arguments["weight_decay"]) == (0.1, 0.0)
    assert default.arguments["lr"] == biases.arguments["lr"] == 0.5
    assert (default.sources, biases.sources) == ((), (0,))


def test_a_parameter_in_two_groups_gets_the_settings_of_both() -> None:
    groups = find_groups(sgd(NO_DECAY, HEAD), Net())
    assert [group.sources for group in groups] == [(), (0,), (0, 1), (1,)]
    assert names(groups)[2:] == ["head.bias", "embedding.weight"], "a tied weight has the names of both modules"
    assert (groups[2].arguments["lr"], groups[2].arguments["weight_decay"]) == (0.1, 0.0)


@pytest.mark.parametrize("config", [sgd(NO_DECAY, HEAD), muon(NO_DECAY, HEAD)], ids=["sgd", "muon"])
def test_each_parameter_is_in_one_group(config: Optim) -> None:
    network = Net()
    found = [parameter for group in find_groups(config, network) for parameter in group.parameters.values()]
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert sorted(map(id, found)) == sorted(map(id, trained))
    in_torch = [parameter for group in build_optimizer(config, network).param_groups for parameter in group["params"]]
    assert list(map(id, in_torch)) == list(map(id, found))


def test_muon_takes_what_has_two_dimensions_or_more() -> None:
    groups = find_groups(muon({"match": ("head.*",), "optimizer": "rest", "lr": 0.3}), Net())
    assert names(groups) == [
        "conv.weight fc.weight", "conv.bias norm1.weight norm1.bias fc.bias", "embedding.weight head.bias",
    ]  # fmt: skip
    assert [group.optimizer.name for group in groups] == ["muon", "adamw", "adamw"]
    assert [group.arguments["lr"] for group in groups] == [0.02, 1e-3, 0.3]


def test_a_group_may_have_another_schedule() -> None:
    config = sgd({**HEAD, "schedule": "constant"}, schedule="cosine")
    assert [group.schedule for group in find_groups(config, Net())] == ["cosine", "constant"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            sgd({"match": ("*.bias", "heads.bias"), "lr": 0.1}),
            "optim.groups[0].match: heads.bias matches no parameter. Did you mean head.bias? The network has",
        ),
        (
            sgd({"match": ("frozen",)}),
            "optim.groups[0].match: frozen matches 1 parameters, and none of them takes a gradient; leave it out",
        ),
        (
            sgd(HEAD, {"match": ("*.bias",), "lr": 0.2}),
            "optim.groups[1].lr is 0.2, but optim.groups[0] matches head.bias too and sets 0.1; let only one of them",
        ),
        (
            sgd({**HEAD, "schedule": "linear"}, {"match": ("*.bias",), "schedule": "constant"}),
            "optim.groups[1].schedule is 'constant', but optim.groups[0] matches head.bias too and sets 'linear'",
        ),
        (
            muon({"match": ("*.bias",), "momentum": 0.5}),
            "optim.groups[0].momentum is 0.5, but conv.bias is updated by adamw, which does not have it; it has",
        ),
        (
            muon({"match": ("fc.*",), "betas": (0.5, 0.5)}),
            "optim.groups[0].betas is [0.5, 0.5], but fc.weight is updated by muon, which does not have it; it has",
        ),
    ],
)
def test_what_is_refused(config: Optim, message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        find_groups(config, Net())
    assert message in str(refusal.value)


def test_groups_are_printed_with_all_that_is_set() -> None:
    text = format_groups(find_groups(muon(NO_DECAY, {**HEAD, "optimizer": "rest"}), Net()))
    first, *_, last = text.split("group ")[1:]
    title, arguments, *others = first.splitlines()
    assert title == "0: muon: 2 parameters, 66 weights"
    assert arguments.startswith("  lr 0.02, weight_decay 0.1, momentum 0.95, nesterov true, ns_coefficients [3.4445, ")
    assert others == ["  schedule constant", "    conv.weight [3, 2, 3, 3]", "    fc.weight [4, 3]"]
    assert last.splitlines()[0] == "3: adamw, optim.groups[1]: 1 parameters, 20 weights"
    assert "group 2: adamw, optim.groups[0], optim.groups[1]: 1 parameters, 5 weights\n  lr 0.1, betas" in text


def test_two_groups_may_set_the_same_value() -> None:
    groups = find_groups(sgd(HEAD, {"match": ("*.bias",), "lr": 0.1}), Net())
    assert {group.arguments["lr"] for group in groups[1:]} == {0.1}
