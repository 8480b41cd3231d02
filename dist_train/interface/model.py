"""A trained network for Python, with the preprocessing it was trained with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from dist_train.checkpoint import resume, serialization
from dist_train.checkpoint.store import find
from dist_train.data.augment import open_preparation
from dist_train.data.datasets.picture import decode, from_picture
from dist_train.data.identity import DataIdentity
from dist_train.data.source import resize
from dist_train.errors import CheckpointError, DataError
from dist_train.evaluate import find_checkpoint, load_config_of
from dist_train.models import build_model
from dist_train.nest import Nest, map_tensors
from dist_train.run_dir import RunDir
from dist_train.settings.schema import Augment, Config, ImageData

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
        self._shape, self._data = data.shape, config.data if isinstance(config.data, ImageData) else None
        self._normalize = data.normalize

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
        if self._data is None or not _are_pictures(inputs):
            return map_tensors(lambda tensor: tensor.to(device), inputs)
        pixels = self._check(self._read(inputs, self._data.resize))
        prepare = open_preparation(self._normalize, Augment(), 0, device, torch.contiguous_format).prepare
        return prepare(pixels.to(device))

    def _read(self, inputs: Any, side: int | None) -> Tensor:
        """Return uint8 [B, C, H, W], resized as the data of the run."""
        if isinstance(inputs, Tensor) and inputs.dim() == 4:
            return resize(inputs, side)
        pictures = inputs if isinstance(inputs, Sequence) and not isinstance(inputs, str) else [inputs]
        return torch.cat([self._check(self._to_pixels(picture, side)) for picture in pictures])

    def _to_pixels(self, picture: Picture, side: int | None) -> Tensor:
        if isinstance(picture, Tensor):
            return resize(picture[None], side)
        if isinstance(picture, np.ndarray):
            pixels = torch.from_numpy(np.array(picture))
            return resize((pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1))[None], side)
        if isinstance(picture, Image.Image):
            pixels = torch.from_numpy(from_picture(picture, side))[None]
        else:
            pixels = torch.from_numpy(decode(str(picture), side))[None]
        return _to_grey(pixels) if self._shape[0] == 1 else pixels

    def _check(self, pixels: Tensor) -> Tensor:
        if tuple(pixels.shape[1:]) != self._shape:
            own, wanted = ("x".join(map(str, shape)) for shape in (pixels.shape[1:], self._shape))
            raise DataError(
                f"a picture is {own} (channels, height, width), but the network was trained on {wanted}: scale the "
                "picture to that"
            )
        return pixels


def load_model(run_dir: str | Path, which: str = "latest", device: str | torch.device = "cpu") -> TrainedModel:
    """Return the trained network of a run, with its preprocessing; of a run with `train.ema_decay` the average.

    Args:
        which: `latest`, `best`, the number of a step, or the directory of a checkpoint.

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
    shape = (data.shape[0], data.shape[1], data.shape[2]) if isinstance(config.data, ImageData) else None
    with torch.random.fork_rng(devices=[]):
        network = build_model(config.model, shape, len(data.classes), config.run.seed)
    name = "average.pt" if "average.pt" in files else "model.pt"
    serialization.load_weights(network, files[name], str(place / name))
    return TrainedModel(network, config, data, files["training.pt"]["step"]).to(device)


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
