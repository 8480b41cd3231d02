"""Scaling of arrays of images."""

import torch

from dist_train.data.source import resize


def test_resize_of_arrays_is_independent_of_the_batch() -> None:
    images = torch.randint(0, 256, (2050, 1, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    together = resize(images, 5)
    assert together.shape == (2050, 1, 5, 5)
    for index in (0, 1023, 1024, 2049):
        assert torch.equal(resize(images[index : index + 1], 5)[0], together[index])
    constant = resize(torch.full((1, 3, 4, 9), 200, dtype=torch.uint8), 8)
    assert bool((constant == 200).all())
