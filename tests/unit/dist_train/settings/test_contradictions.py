"""Settings that are valid alone and not together."""

from typing import Any

import pytest

from dist_train.settings.contradictions import find_contradictions
from dist_train.settings.schema import Config, list_keys
from dist_train.settings.schema.section import Contradiction

SGD_WITH = {"name": "sgd", "lr": 0.1}
LEAST: dict[str, dict[str, Any]] = {
    "run": {"name": "a", "dir": "runs/a"},
    "data": {"name": "digits", "root": "data", "cache": "cache"},
    "model": {"name": "lenet"},
    "optim": SGD_WITH,
}


def with_settings(**changes: dict[str, Any]) -> Config:
    return Config.model_validate({key: {**LEAST.get(key, {}), **changes.get(key, {})} for key in {**LEAST, **changes}})


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"optim": {"gamma": 0.5}}, "optim.gamma"),
        ({"optim": {"schedule": "cosine", "step_size": 3.0}}, "optim.step_size"),
        ({"optim": {"schedule": "multistep"}}, "optim.milestones"),
        ({"optim": {"schedule": "multistep", "milestones": (3.0, 2.0)}}, "optim.milestones"),
        ({"optim": {"schedule": "onecycle", "warmup_epochs": 1.0}}, "optim.warmup_epochs"),
        ({"optim": {"nesterov": True}}, "optim.nesterov"),
        ({"optim": {"nesterov": True, "momentum": 0.9, "dampening": 0.1}}, "optim.nesterov"),
        ({"model": {"num_classes": 11}}, "model.num_classes"),
        ({"data": {"normalize": {"mean": (0.1, 0.2), "std": (1.0,)}}}, "data.normalize"),
        ({"train": {"sync_batchnorm": True, "micro_batch": 2}}, "train.sync_batchnorm"),
        ({"train": {"sync_batchnorm": True, "compile": "model"}}, "train.sync_batchnorm"),
        ({"train": {"sync_batchnorm": True}, "run": {"reproducible": "bitwise"}}, "train.sync_batchnorm"),
        *[
            (
                {"run": {"reproducible": "bitwise"}, "distributed": {"shards": shards}, "data": data},
                "distributed.shards",
            )
            for shards, data in ((3, {}), (16, {"global_batch": 15}), (2**16, {}))
        ],
        (
            {"run": {"reproducible": "bitwise"}, "distributed": {"compression": "bf16"}},
            "distributed.compression",
        ),
    ],
)
def test_contradiction(changes: dict[str, dict[str, Any]], key: str) -> None:
    assert [found.key for found in find_contradictions(with_settings(**changes))] == [key]


@pytest.mark.parametrize("key", ["optim.plateau", "train.early_stopping"])
def test_what_follows_from_evaluations_needs_some(key: str) -> None:
    section, name = key.split(".")
    changes: dict[str, Any] = {section: {name: {"patience": 1}}}
    assert not list(find_contradictions(with_settings(**changes)))
    assert not list(find_contradictions(with_settings(**changes, eval={"every_epochs": 0, "every_steps": 5})))
    (found,) = find_contradictions(with_settings(**changes, eval={"every_epochs": 0}))
    assert found.key == key


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "optim": {
                "schedule": "linear",
                "groups": ({"match": ("a",), "schedule": "trapezoid"},),
                "decay_fraction": 0.5,
            }
        },
        {"optim": {"schedule": "multistep", "milestones": (1.0, 2.0), "gamma": 0.5, "warmup_epochs": 1.0}},
        {"optim": {"nesterov": True, "momentum": 0.9}},
        {"model": {"num_classes": 10}},
        {"data": {"name": "image_folder"}, "model": {"num_classes": 3}},
        {"train": {"sync_batchnorm": True}, "distributed": {"backend": "gloo"}},
        {"train": {"sync_batchnorm": False, "micro_batch": 2}, "run": {"reproducible": "bitwise"}},
        *[
            {"run": {"reproducible": "bitwise"}, "distributed": {"shards": shards}, "data": data}
            for shards, data in ((8, {"global_batch": 1}), (16, {"global_batch": 16}), (2**16, {"global_batch": 2**17}))
        ],
        {"distributed": {"compression": "bf16"}},
    ],
)
def test_no_contradiction(changes: dict[str, dict[str, Any]]) -> None:
    assert list(find_contradictions(with_settings(**changes))) == []


def test_contradiction_names_a_setting() -> None:
    found = list(find_contradictions(with_settings(optim={"gamma": 0.5, "nesterov": True})))
    assert {contradiction.key for contradiction in found} < set(list_keys((Config,)))
    assert all(isinstance(contradiction, Contradiction) for contradiction in found)
