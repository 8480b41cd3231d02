"""Weights that torchvision and timm publish, by their names: downloaded once, to the folder of `torch.hub`."""

import re
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor

from dist_train.checkpoint.weights import read_state_dict
from dist_train.data.datasets.download import time_out_connections
from dist_train.errors import ConfigError
from dist_train.system.escape import escape

_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d)\.")


def list_published(name: str) -> list[str]:
    """Return the names of the weights of a network, such as `torchvision/resnet18`; of other libraries none."""
    library, _, model = name.partition("/")
    if library == "torchvision":
        from torchvision.models import get_model_weights

        return list(get_model_weights(model).__members__)
    if library == "timm":
        import timm  # type: ignore[import-not-found, unused-ignore]

        tags = (each.partition(".")[2] for each in timm.list_pretrained(f"{model.partition('.')[0]}.*"))
        return ["DEFAULT", *tags]
    return []


def read_published(name: str, weights: str) -> dict[str, Tensor]:
    """Return weights by one of the names of `list_published`; raises ConfigError if they can't be downloaded."""
    library, _, model = name.partition("/")
    if library == "torchvision":
        from torchvision.models import get_model_weights

        return read_state_dict(fetch(get_model_weights(model)[weights].url, name))
    import timm  # type: ignore[import-not-found, unused-ignore]

    chosen = model if weights == "DEFAULT" else f"{model.partition('.')[0]}.{weights}"
    try:
        found: dict[str, Tensor] = timm.create_model(chosen, pretrained=True).state_dict()
    except Exception as error:  # of the network, or of Hugging Face's client
        raise ConfigError(describe_missing(name, error, find_address(chosen))) from error
    return found


def rename_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under the names that torchvision's networks have today; its DenseNets had others."""
    return {_OLD_DENSENET.sub(r"\1\2.", key): value for key, value in state_dict.items()}


def fetch(url: str, name: str) -> Path:
    """Return the file of published weights, which is downloaded unless it is there; raises ConfigError."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if path.is_file():
        return path
    checksum = torch.hub.HASH_REGEX.search(path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with time_out_connections():
            torch.hub.download_url_to_file(url, str(path), checksum and checksum[1])
    except (OSError, RuntimeError, HTTPException) as error:
        raise ConfigError(describe_missing(name, error, url, path)) from error
    return path


def find_address(model: str) -> str:
    """Return the address of the weights of a network of timm, or `its weights` if timm does not know it."""
    import timm  # type: ignore[import-not-found, unused-ignore]

    config = timm.get_pretrained_cfg(model)
    return f"https://huggingface.co/{config.hf_hub_id}/resolve/main/model.safetensors" if config else "its weights"


def describe_missing(name: str, error: Exception, address: str, path: Path | None = None) -> str:
    """Return a message: what to download by hand, and where to put it."""
    place = f"put it at {escape(path)}, or give" if path else "give"
    return (
        f"{escape(name)}: its weights can't be downloaded ({escape(' '.join(str(error).split()), 200)}). Download "
        f"{address} where there is a network; then {place} its path as the weights"
    )
