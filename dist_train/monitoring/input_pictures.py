"""What a network gets, as pictures that people can look at."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dist_train.nest import Nest, list_tensors
from dist_train.settings.schema import Normalize

if TYPE_CHECKING:
    from numpy.typing import NDArray


def find_pictures(inputs: Nest) -> Tensor | None:
    """Return the first tensor of [B, 1 or 3, H, W], None without one."""
    return next(filter(_holds_pictures, list_tensors(inputs)), None)


def to_pictures(inputs: Nest, normalize: Normalize | None) -> "list[NDArray[Any]] | None":
    """Return a picture for each sample, uint8 [H, W] or [H, W, 3]; None if the inputs hold none.

    Args:
        inputs: of a batch, as the network gets them.
        normalize: the mean and std that are undone. Without, floats outside of 0 to 1 are shown from the lowest of a
            sample, which is black, to its highest.
    """
    found = find_pictures(inputs)
    if found is None:
        return None
    pixels = _to_pixels(found.detach().cpu(), normalize)
    return [each[0].numpy() if len(each) == 1 else each.permute(1, 2, 0).numpy() for each in pixels]


def _holds_pictures(tensor: Tensor) -> bool:
    is_real = tensor.is_floating_point() or tensor.dtype == torch.uint8
    return is_real and tensor.dim() == 4 and tensor.shape[1] in (1, 3) and tensor.numel() > 0


def _to_pixels(values: Tensor, normalize: Normalize | None) -> Tensor:
    """uint8 [B, C, H, W] of uint8 or floats."""
    if values.dtype == torch.uint8:
        return values
    values = values.float().nan_to_num()
    if normalize is not None:
        mean, std = (torch.tensor(each)[:, None, None] for each in (normalize.mean, normalize.std))
        values = values * std + mean
    elif values.min() < 0 or values.max() > 1:
        low, high = (function(values, dim=(1, 2, 3), keepdim=True) for function in (torch.amin, torch.amax))
        values = (values - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
    return values.mul(255).round().clamp(0, 255).to(torch.uint8)
