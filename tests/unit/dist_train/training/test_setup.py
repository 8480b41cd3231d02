"""What a training opens, in which order."""

import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from dist_train.distributed.world import World
from dist_train.errors import ConfigError
from dist_train.settings.loader import load_config
from dist_train.training import setup
from dist_train.training.setup import open_training


def test_a_package_that_is_not_there_is_missed_before_data_are_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config("digits", ["model.name=timm/resnet18", f"run.dir={tmp_path}/run"], {})
    opened = Mock()
    monkeypatch.setattr(setup, "open_dataset", opened)
    monkeypatch.setitem(sys.modules, "timm", None)
    with (
        pytest.raises(ConfigError, match=r"model\.name timm/resnet18: needs the package timm"),
        open_training(config, World(), Mock(), "train"),
    ):
        pass
    opened.assert_not_called()
