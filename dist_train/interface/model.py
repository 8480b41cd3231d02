"""A trained network for Python, with the preprocessing it was trained with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from dist_train.checkpoint import resume, serialization
from dist_train.checkpoint.code_of_run import code_of_run
from dist_train.data.augment import open_preparation
from dist_train.data.datasets.picture import decode, from_picture, open_picture
from dist_train.data.identity import DataIdentity
from dist_train.data.samples import Shape
from dist_train.data.source import resize
from dist_train.errors import CheckpointError, ConfigError, DataError
from dist_train.evaluate import load_checkpoint, load_config_of
from dist_train.execution.auto_settings import AutoSettings
from dist_train.models import build_model, give_shapes
from dist_train.nest import Nest, map_tensors
from dist_train.run_dir import RunDir
from dist_train.settings.schema import Augment, Config, ImageData, ImageFolderData
from dist_train.system.escape import escape

Picture = str | Path | Image.Image | Tensor | np.ndarray[Any, Any]
"""A file; a picture of PIL; uint8 [C, H, W] as a tensor; uint8 [H, W] or [H, W, C] as an array."""


class TrainedModel(nn.Module):
    """A trained network in evaluation mode: `model(inputs)` prepares the inputs and returns the network's output.

    Inputs are pictures (see `preprocess`), or for a data set of your own the inputs of a batch.

    Attributes:
        network: the plain module; its parameters need no gradient.
        classes: names of the classes, in the order of the outputs.
        config: settings of the run.
        data: which data it was trained on.
        step: step of the checkpoint.
        auto_settings: values that the training chose for `auto`, such as the precision; `model(inputs)` uses fp32.
    """

    def __init__(
        self, network: nn.Module, config: Config, data: DataIdentity, step: int, auto_settings: AutoSettings
    ) -> None:
        super().__init__()
        self.network = network
        self.eval().requires_grad_(False)
        self.config, self.classes, self.step = config, data.classes, step
        self.data, self.auto_settings = data, auto_settings

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
        shape, normalize, data = self.data.shape, self.data.normalize, self.config.data
        if shape is None or normalize is None or not isinstance(data, ImageData) or not _are_pictures(inputs):
            return map_tensors(lambda tensor: tensor.to(device), inputs)
        pixels = _check(_read(inputs, shape, data), shape)
        prepare = open_preparation(normalize, Augment(), 0, device, torch.contiguous_format).prepare
        return prepare(pixels.to(device))

    def read_picture(self, path: str | Path) -> Tensor:
        """Return a picture file of any size as uint8 [C, H, W] of the network's shape, for a batch for `preprocess`.

        Where the run has no `data.resize`, a picture of another size is scaled until it covers the shape, and cut.

        Raises:
            DataError: it can't be read.
            ConfigError: the run was not trained on a data set of images.
        """
        shape, data = self.data.shape, self.config.data
        if shape is None or not isinstance(data, ImageData):
            raise ConfigError(
                f"the run was trained on {escape(data.name)}, which prepares its samples by itself, so that no other "
                "pictures can be predicted: predict a split of it (--split test)"
            )
        if data.resize is None:
            image, size = open_picture(str(path), _find_orientation(data)), (shape[2], shape[1])
            fitting = image if image.size == size else ImageOps.fit(image, size, Image.Resampling.BILINEAR)
            decoded = from_picture(fitting, None)
        else:
            decoded = decode(str(path), data.resize, _find_orientation(data))
        pixels = torch.from_numpy(decoded)[None]
        return _check(_to_grey(pixels) if shape[0] == 1 else pixels, shape)[0]


def load_model(
    run_dir: str | Path,
    which: str = "latest",
    device: str | torch.device = "cpu",
    overrides: Sequence[str] = (),
    *,
    trust_code: bool = False,
) -> TrainedModel:
    """Return the trained network of a run, with its preprocessing; of a run with `train.ema_decay` the average.

    Args:
        which: `latest`, `best`, the number of a step, or the directory of a checkpoint.
        overrides: `key=value` of other settings.
        trust_code: also run code that the run has kept if it belongs to another user.

    Raises:
        CheckpointError: the directory holds no run, or there is no such checkpoint, or it is damaged.
    """
    run = RunDir(run_dir)
    config = load_config_of(run, overrides)
    path, files = load_checkpoint(run, which)
    data = resume.read_data_identity(files)
    if data is None:
        raise CheckpointError(
            f"{escape(path)}: is of a version that did not store which data it was trained on; resume the run once"
        )
    with torch.random.fork_rng(devices=[]), code_of_run(config, run.path, trust_code) as config:
        network = build_model(config.model, data.shape, len(data.classes), config.run.seed, data.make_inputs())
    name = "average.pt" if "average.pt" in files else "model.pt"
    give_shapes(network, files[name])
    serialization.load_weights(network, files[name], str(path / name))
    training = files["training.pt"]
    auto_settings = AutoSettings.from_dict(training["choices"])
    return TrainedModel(network, config, data, training["step"], auto_settings).to(device)


def _read(inputs: Any, shape: Shape, data: ImageData) -> Tensor:
    """Return pictures as uint8 [B, C, H, W], resized as the data of the run."""
    if isinstance(inputs, Tensor) and inputs.dim() == 4:
        return resize(inputs, data.resize)
    pictures = inputs if isinstance(inputs, Sequence) and not isinstance(inputs, str) else [inputs]
    return torch.cat([_check(_to_pixels(picture, shape, data), shape) for picture in pictures])


def _to_pixels(picture: Picture, shape: Shape, data: ImageData) -> Tensor:
    side, orientation = data.resize, _find_orientation(data)
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


def _find_orientation(data: ImageData) -> str:
    return data.orientation if isinstance(data, ImageFolderData) else "exif"


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
