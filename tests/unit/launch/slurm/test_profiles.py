"""Profiles of clusters."""

from pathlib import Path

import pytest
import yaml

from dist_train.errors import ConfigError
from launch.slurm.profiles import load_cluster
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partitoin: gpu", r"x\.yaml:1: partitoin is not a setting\. Did you mean partition\?"),
        ("mem: 64", r"x\.yaml:1: mem is 64; it must be text"),
        ("gpus_per_node: many", r"x\.yaml:1: gpus_per_node is 'many'; it must be"),
        ("environment: {A B: c}", r"x\.yaml:1: environment is .*A B.*a mapping whose keys are text that matches"),
    ],
)
def test_a_profile_has_no_faults(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_cluster(str(tmp_path / "x.yaml"))


def test_the_example_of_a_profile_is_one() -> None:
    path = ROOT / "configs" / "clusters" / "example.yaml"
    assert load_cluster(str(path)).model_dump(exclude_defaults=True).keys() == yaml.safe_load(path.read_text()).keys()
