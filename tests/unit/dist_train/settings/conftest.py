"""Loads settings from a text, as if it were the content of the file `a.yaml`."""

from collections.abc import Callable

import pytest

from dist_train.errors import ConfigError
from dist_train.settings.loader import load_config
from dist_train.settings.schema import Config

LEAST = "data: {name: synthetic}\nmodel: {name: lenet}\n"

Load = Callable[..., Config]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """`load(text, "key=value", ...)`: the settings in a file `a.yaml` with this content, in an empty environment."""
    path = tmp_path_factory.mktemp("settings") / "a.yaml"

    def load_text(content: str | bytes, *overrides: str, **environ: str) -> Config:
        path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
        try:
            return load_config(path, overrides, environ)
        except ConfigError as error:
            raise ConfigError(str(error).replace(str(path), "a.yaml")) from None

    return load_text


def complaint(load: Load, content: str | bytes, *overrides: str, **environ: str) -> str:
    """The message with which settings are refused."""
    with pytest.raises(ConfigError) as caught:
        load(content, *overrides, **environ)
    return str(caught.value)
