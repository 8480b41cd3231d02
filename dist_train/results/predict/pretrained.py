"""Pretrained networks with their weights, transforms and labels.

    torchvision/resnet101               of torchvision
    timm/resnet18.a1_in1k               of timm, if that is installed
    hub/owner/repo@COMMIT:entry         of a hubconf.py (`results.predict.hub`)

Weights are downloaded once, to the folder of `torch.hub`, or given as a file.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import models

from dist_train.checkpoint.published import describe_missing, fetch, find_address, rename_published
from dist_train.checkpoint.weights import load_pretrained, read_state_dict
from dist_train.errors import ConfigError
from dist_train.own_code.load import shown_as_own
from dist_train.results.predict.hub import build_from_hub
from dist_train.system.escape import escape

DEFAULT = "DEFAULT"
KINDS = ("torchvision", "timm", "hub")
"""The first part of the name of such a network."""
IMAGENET = models.ResNet50_Weights.IMAGENET1K_V1
"""Its transforms and labels are used for a network of `hub/`, which names none."""

# As their published weights were trained.
_ARGUMENTS: dict[str, dict[str, Any]] = {
    name: {"transform_input": True, "aux_logits": True, "init_weights": False} for name in ("googlenet", "inception_v3")
}


@dataclass(frozen=True)
class Pretrained:
    """A network with its preprocessing and labels."""

    network: nn.Module
    """The network in evaluation mode, on the CPU."""
    transform: Callable[[Image.Image], Tensor]
    """Makes float [3, H, W] of a picture of the mode RGB."""
    classes: tuple[str, ...]


def open_pretrained(name: str, weights: str, *, trust_code: bool) -> Pretrained:
    """Return a network by its name, as in the docstring of this module.

    Args:
        weights: `DEFAULT`, a name that the library has for weights, or a file.
        trust_code: also run code of `hub/` that is not the user's own.

    Raises:
        UserError: there is no such network, or its weights can't be had or are of another one.
        OwnCodeError: code of `hub/` fails.
    """
    kind, _, rest = name.partition("/")
    if weights != DEFAULT and kind != "torchvision" and not Path(weights).is_file():
        raise ConfigError(f"--weights {escape(weights)}: is no file; give a file of weights, or leave it out")
    opened = {"torchvision": _open_torchvision, "timm": _open_timm}.get(kind)
    found = opened(rest, weights) if opened else _open_hub(rest, weights, trust_code)
    found.network.eval().requires_grad_(False)
    return found


def _open_torchvision(name: str, weights: str) -> Pretrained:
    _check_name("torchvision", name, models.list_models(module=models))
    known = models.get_model_weights(name)
    file = Path(weights)
    if weights not in known.__members__ and not file.is_file():
        raise ConfigError(
            f"--weights {escape(weights)}: is no file, and torchvision/{name} has {', '.join(known.__members__)}"
        )
    if weights in known.__members__:
        entry = known[weights]
        file = fetch(entry.url, f"torchvision/{name}")
    else:
        entry = next((each for each in known if Path(each.url).name == file.name), known[DEFAULT])
    arguments = dict(_ARGUMENTS.get(name, {}))
    if name.startswith("vit_"):
        arguments["image_size"] = entry.meta["min_size"][0]
    classes = tuple(entry.meta["categories"])
    network = models.get_model(name, weights=None, num_classes=len(classes), **arguments)
    load_pretrained(network, rename_published(read_state_dict(file)), file)
    return Pretrained(network, entry.transforms(), classes)


def _open_timm(name: str, weights: str) -> Pretrained:
    try:
        import timm  # type: ignore[import-not-found, unused-ignore]
        from timm import data
    except ImportError as error:
        raise ConfigError(f"timm/{escape(name)}: needs the package timm; pip install timm") from error
    _check_name("timm", name.partition(".")[0], timm.list_models())
    try:
        network: nn.Module = timm.create_model(name, pretrained=weights == DEFAULT)
    except Exception as error:  # of the network, of Hugging Face's client, or timm has no such weights
        raise ConfigError(describe_missing(f"timm/{name}", error, find_address(name))) from error
    if weights != DEFAULT:
        load_pretrained(network, read_state_dict(weights), weights)
    transform = data.create_transform(**data.resolve_model_data_config(network), is_training=False)
    subset = data.infer_imagenet_subset(network)
    classes = tuple(data.ImageNetInfo(subset).label_descriptions()) if subset else ()
    return Pretrained(network, transform, classes)


def _open_hub(name: str, weights: str, trust_code: bool) -> Pretrained:
    network = build_from_hub(name, has_weights=weights == DEFAULT, trust_code=trust_code)
    if weights != DEFAULT:
        load_pretrained(network, read_state_dict(weights), weights)
    network.eval()
    with torch.no_grad(), shown_as_own(f"hub/{escape(name)}: a pass over a picture of 224x224 pixels"):
        output = network(torch.zeros(1, 3, 224, 224))
    has_labels = isinstance(output, Tensor) and output.shape == (1, len(IMAGENET.meta["categories"]))
    return Pretrained(network, IMAGENET.transforms(), tuple(IMAGENET.meta["categories"]) if has_labels else ())


def _check_name(library: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        close = get_close_matches(name, known, 1)
        hint = f"; did you mean {library}/{close[0]}?" if close else f"; it has {', '.join(known[:8])}, ..."
        raise ConfigError(f"{library}/{escape(name)}: {library} has no such network{hint}")
