"""Settings and folders for tests of data sets."""

import os
from pathlib import Path
from typing import Any

import pytest

from dist_train.settings.schema import ImageData, ImageFolderData, StoredData, SyntheticData
from tests.unit.dist_train.data.files import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Builds settings with the root and the cache under `tmp_path`."""

    def build(name: str, **other: Any) -> ImageData:
        kinds: dict[str, type[ImageData]] = {"synthetic": SyntheticData, "image_folder": ImageFolderData}
        places = {"root": str(tmp_path / "root"), "cache": str(tmp_path / "cache"), "download": False}
        return kinds.get(name, StoredData).model_validate({"name": name, **places, **other})

    return build


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def real(request: pytest.FixtureRequest) -> str:
    """The directory in DIST_TRAIN_DATA, if the data set `request.param` is in it."""
    place = os.environ.get("DIST_TRAIN_DATA")
    if not place:
        pytest.skip("DIST_TRAIN_DATA is not set")
    if not (Path(place) / request.param).is_dir():
        pytest.skip(f"DIST_TRAIN_DATA={place} holds no {request.param}")
    return place
