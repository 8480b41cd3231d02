"""The table of settings against torch itself, and against its own rules."""

import inspect
from collections.abc import Iterator
from typing import get_args

import pytest
import torch
import torchvision

from dist_train.settings.documentation import find_documentation
from dist_train.settings.schema import Config, TorchvisionName, Train, list_keys
from dist_train.settings.schema.optim import SGD, Optim, Optimizer
from dist_train.settings.schema.section import Section, section_classes
from tests.unit.dist_train.optim.in_torch import IN_TORCH

NOT_OFFERED = {"params", "foreach", "fused", "maximize", "capturable", "differentiable"}


@pytest.mark.parametrize("section", IN_TORCH, ids=lambda section: section.__name__)
def test_optimizer_has_the_arguments_and_defaults_of_torch(section: type[Optim]) -> None:
    signature = inspect.signature(getattr(torch.optim, section.__name__))
    in_torch = {name: parameter.default for name, parameter in signature.parameters.items() if name not in NOT_OFFERED}
    name = get_args(section.model_fields["name"].annotation)
    assert name == (section.__name__.lower(),)
    assert section.model_validate({"name": name[0]}).arguments() == in_torch


def test_models_are_those_of_torchvision() -> None:
    models = torchvision.models.list_models(module=torchvision.models)
    assert [f"torchvision/{name}" for name in models] == list(get_args(TorchvisionName))


def all_sections(section: type[Section]) -> Iterator[type[Section]]:
    yield section
    for info in section.model_fields.values():
        for inner in section_classes(info.annotation):
            yield from all_sections(inner)


@pytest.mark.parametrize("section", list(dict.fromkeys(all_sections(Config)))[1:], ids=lambda section: section.__name__)
def test_every_setting_is_documented(section: type[Section]) -> None:
    """Once: what a subclass narrows is documented in its base; arguments of optimizers are documented in torch."""
    section = next((base for base in (Optim, Optimizer) if issubclass(section, base)), section)
    documented = {key for base in section.__mro__ if issubclass(base, Section) for key in _described(base)}
    assert documented == set(section.model_fields)


def _described(section: type[Section]) -> list[str]:
    return [name for name in section.model_fields if find_documentation(section, name)]


def test_settings_cannot_be_edited() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Train().epochs = 3  # type: ignore[misc]


def test_keys_hold_every_class_of_a_section() -> None:
    keys = list_keys((Config,))
    assert {"optim.betas", "optim.momentum", "data.shape", "data.normalize.mean", "model.channels"} < set(keys)
    assert "optim" not in keys
    assert list_keys((SGD,), "optim.")[0] == "optim.name"
