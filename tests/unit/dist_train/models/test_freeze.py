"""Which parameters and which statistics are frozen, and until when."""

from typing import Any

import pytest
import torch
from torch import nn

from dist_train.errors import ConfigError
from dist_train.models.freeze import evaluation_mode, find_frozen, set_frozen
from dist_train.settings.schema import OwnModel


def make_network() -> nn.Module:
    layers = {"conv": nn.Conv1d(2, 3, 1), "norm": nn.BatchNorm1d(3), "plain": nn.BatchNorm1d(3, affine=False)}
    return nn.ModuleDict({"stem": nn.ModuleDict(layers), "body": nn.BatchNorm1d(3), "fc": nn.Linear(3, 2)})


def configure(**settings: Any) -> OwnModel:
    return OwnModel(name="nets.py:Net", **settings)


def list_trained(network: nn.Module) -> set[str]:
    return {name for name, parameter in network.named_parameters() if parameter.requires_grad}


def list_in_evaluation(network: nn.Module) -> set[str]:
    return {name for name, layer in network.named_modules() if not layer.training}


ALL = list_trained(make_network())
HEAD, BODY, CONV = ({f"{name}.weight", f"{name}.bias"} for name in ("fc", "body", "stem.conv"))


@pytest.mark.parametrize(
    ("settings", "trained"),
    [
        ({}, [ALL] * 3),
        ({"freeze": "backbone"}, [HEAD] * 3),
        ({"freeze": ("stem.*",)}, [HEAD | BODY] * 3),
        ({"freeze": ("*.weight", "fc.*")}, [{"stem.conv.bias", "stem.norm.bias", "body.bias"}] * 3),
        ({"freeze": "backbone", "unfreeze": {"1": ("body.*",), "2": ("*",)}}, [HEAD, HEAD | BODY, ALL]),
        ({"freeze": "backbone", "unfreeze": {"2": ("body.*",)}, "head": "stem.conv"}, [CONV, CONV, CONV | BODY]),
    ],
)
def test_parameters_are_trained_from_their_epoch_on(settings: dict[str, Any], trained: list[set[str]]) -> None:
    network = make_network()
    frozen = find_frozen(configure(**settings), network)
    for epoch, names in enumerate(trained):
        set_frozen(network, frozen, epoch)
        assert list_trained(network) == names
    set_frozen(network, frozen, 0)  # as at a start from a checkpoint
    assert list_trained(network) == trained[0]


def test_frozen_normalisation_stays_in_evaluation_mode() -> None:
    network = make_network()
    frozen = find_frozen(configure(freeze="backbone", unfreeze={"1": ("body.*",), "2": ("stem.conv.*",)}), network)
    found = []
    for epoch in range(3):
        set_frozen(network, frozen, epoch)
        with evaluation_mode(network):
            assert list_in_evaluation(network) == {name for name, _ in network.named_modules()}
        found.append(list_in_evaluation(network))
    assert found == [{"body", "stem.norm", "stem.plain"}, {"stem.norm", "stem.plain"}, {"stem.norm"}]


def test_a_network_without_frozen_parts_is_left_alone() -> None:
    network = make_network()
    network.get_submodule("body").eval().requires_grad_(False)
    set_frozen(network, find_frozen(configure(), network), 0)
    assert list_in_evaluation(network) == {"body"}
    assert list_trained(network) == ALL - {"body.weight", "body.bias"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"freeze": ("stem.con.*",)}, r"model.freeze: stem.con.\* matches no parameter. Did you mean stem.conv"),
        ({"freeze": ("*",)}, "model.freeze: freezes all 8 parameters, so that there is none to train"),
        ({"freeze": ("*",), "unfreeze": {"1": ("fc.*",)}}, "there is none to train"),
        ({"freeze": "backbone", "unfreeze": {"3": ("fc.*",)}}, r"model.unfreeze: 3: fc.\* matches no parameter"),
        ({"freeze": "backbone", "head": "fx"}, "model.head is fx"),
    ],
)
def test_patterns_that_freeze_nothing_or_all_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_frozen(configure(**settings), make_network())


def test_a_network_that_sets_modes_itself_keeps_them() -> None:
    class Half(nn.Sequential):
        def train(self, mode: bool = True) -> "Half":
            super().train(mode)
            self.is_sampling = mode
            return self

    network = Half(nn.Dropout(), nn.Dropout())
    network[0].eval()
    network.train()
    network[1].eval()
    with evaluation_mode(network):
        assert not network.is_sampling
    assert network.is_sampling
    assert [layer.training for layer in network] == [True, False]
    assert not torch.is_inference_mode_enabled()
