"""The data set of this project: replace it by your own."""

import torch
from torch import Tensor
from torch.utils.data import Dataset

SIDE = 16  # pixels


class Shapes(Dataset[tuple[Tensor, int]]):
    """Noisy pictures of squares and circles, drawn when they are read: each a function of its number alone.

    Args:
        split: `train` or `test`.
        size: pictures for training; a fifth as many for the test.
    """

    classes = ("square", "circle")

    def __init__(self, split: str, size: int = 2000) -> None:
        self.first, self.size = (0, size) if split == "train" else (size, size // 5)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return a picture, float [1, 16, 16], and the number of its class."""
        generator = torch.Generator().manual_seed(self.first + index)
        label = index % 2
        radius = 3 + 3 * torch.rand((), generator=generator)
        row, column = 6 + 4 * torch.rand(2, generator=generator)
        rows, columns = torch.arange(SIDE)[:, None] - row, torch.arange(SIDE)[None, :] - column
        if label == 0:
            shape = torch.maximum(rows.abs(), columns.abs()) < radius
        else:
            shape = rows**2 + columns**2 < radius**2
        noise = 0.1 * torch.randn(SIDE, SIDE, generator=generator)
        return (shape.float() + noise)[None], label
