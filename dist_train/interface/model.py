"""A trained network for Python, with the preprocessing it was trained with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from dist_train.checkpoint import resume, serialization
from dist_train.checkpoint.code_of_run import code_of_run
from dist_train.checkpoint.store import find
from dist_train.data.augment import open_preparation
from dist_train.data.datasets.picture import decode, from_picture
from dist_train.data.identity import DataIdentity
from dist_train.data.samples import Shape
from dist_train.data.source import resize
from dist_train.errors import CheckpointError, DataError
from dist_train.evaluate import find_checkpoint, load_config_of
from dist_train.models import build_model
from dist_train.nest import Nest, map_tensors
from dist_train.run_dir import RunDir
from dist_train.settings.schema import Augment, Config, ImageData, ImageFolderData

Picture = str | Path | Image.Image | Tensor | np.ndarray[Any, Any]
"""A file; a picture of PIL; uint8 [C, H, W] as a tensor; uint8 [H, W] or [H, W, C] as an array."""


class TrainedModel(nn.Module):
    """A trained network in evaluation mode: `model(inputs)` prepares the inputs and returns the network's output.

    Inputs are pictures (see `preprocess`), or for a data set of your own what it gives for a batch.

    Attributes:
        network: the plain module; its parameters need no gradient.
        classes: names of the classes, in the order of the outputs.
        config: settings of the run.
        step: of the checkpoint.
    """

    def __init__(self, network: nn.Module, config: Config, data: DataIdentity, step: int) -> None:
        super().__init__()
        self.network = network
        self.eval().requires_grad_(False)
        self.config, self.classes, self.step = config, data.classes, step
        self._data = data

    def forward(self, inputs: Any) -> Any:
        """Return the output of the network for a batch; a single picture is a batch of one."""
        return self.network(self.preprocess(inputs))

    def preprocess(self, inputs: Any) -> Nest:
        """Return inputs as an evaluation gives them to the network, on its device.

        Args:
            inputs: a picture, a sequence of pictures, or uint8 [B, C, H, W]. Floats are taken as prepared already.

        Raises:
            DataError: a picture can't be read, or is not of the shape that the network was trained on.
        """
        device = next(self.network.parameters()).device
        shape, normalize, data = self._data.shape, self._data.normalize, self.config.data
        if shape is None or normalize is None or not isinstance(data, ImageData) or not _are_pictures(inputs):
            return map_tensors(lambda tensor: tensor.to(device), inputs)
        pixels = _check(_read(inputs, shape, data), shape)
        prepare = open_preparation(normalize, Augment(), 0, device, torch.contiguous_format).prepare
        return prepare(pixels.to(device))


def load_model(
    run_dir: str | Path, which: str = "latest", device: str | torch.device = "cpu", *, trust_code: bool = False
) -> TrainedModel:
    """Return the trained network of a run, with its preprocessing; of a run with `train.ema_decay` the average.

    Args:
        which: `latest`, `best`, the number of a step, or the directory of a checkpoint.
        trust_code: also run code that the run has kept if it belongs to another user.

    Raises:
        CheckpointError: the directory holds no run, or there is no such checkpoint, or it is damaged.
    """
    run = RunDir(run_dir)
    config = load_config_of(run)
    place = find(find_checkpoint(run, which))
    files = serialization.load(place).files
    data = resume.read_data_identity(files)
    if data is None:
        raise CheckpointError(
            f"{place}: is of a version that did not store which data it was trained on; resume the run once"
        )
    with torch.random.fork_rng(devices=[]), code_of_run(config, run.path, trust_code) as config:
        network = build_model(config.model, data.shape, len(data.classes), config.run.seed)
    name = "average.pt" if "average.pt" in files else "model.pt"
    serialization.load_weights(network, files[name], str(place / name))
    return TrainedModel(network, config, data, files["training.pt"]["step"]).to(device)


def _read(inputs: Any, shape: Shape, data: ImageData) -> Tensor:
    """Return pictures as uint8 [B, C, H, W], resized as the data of the run."""
    if isinstance(inputs, Tensor) and inputs.dim() == 4:
        return resize(inputs, data.resize)
    pictures = inputs if isinstance(inputs, Sequence) and not isinstance(inputs, str) else [inputs]
    return torch.cat([_check(_to_pixels(picture, shape, data), shape) for picture in pictures])


def _to_pixels(picture: Picture, shape: Shape, data: ImageData) -> Tensor:
    side = data.resize
    orientation = data.orientation if isinstance(data, ImageFolderData) else "exif"
    if isinstance(picture, Tensor):
        return resize(picture[None], side)
    if isinstance(picture, np.ndarray):
        pixels = torch.from_numpy(np.array(picture))
        return resize((pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1))[None], side)
    if isinstance(picture, Image.Image):
        decoded = from_picture(picture, side, orientation)
    else:
        decoded = decode(str(picture), side, orientation)
    pixels = torch.from_numpy(decoded)[None]
    return _to_grey(pixels) if shape[0] == 1 else pixels


def _check(pixels: Tensor, shape: Shape) -> Tensor:
    if tuple(pixels.shape[1:]) != shape:
        own, wanted = ("x".join(map(str, each)) for each in (pixels.shape[1:], shape))
        raise DataError(
            f"a picture is {own} (channels, height, width), but the network was trained on {wanted}: scale the "
            "picture to that"
        )
    return pixels


def _are_pictures(inputs: Any) -> bool:
    """Whether inputs are pictures, and not yet what a network gets."""
    if isinstance(inputs, Tensor):
        return inputs.dtype == torch.uint8
    if isinstance(inputs, list | tuple):
        return bool(inputs) and all(map(_are_pictures, inputs))
    return isinstance(inputs, str | Path | Image.Image | np.ndarray)


def _to_grey(pixels: Tensor) -> Tensor:
    """Return uint8 [1, 1, H, W] of uint8 [1, 3, H, W], by the weights of ITU-R 601, as PIL has them."""
    grey = Image.fromarray(pixels[0].permute(1, 2, 0).numpy()).convert("L")
    return torch.from_numpy(np.array(grey))[None, None]
