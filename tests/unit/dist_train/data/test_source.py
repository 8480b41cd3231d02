"""Scaling of arrays of images."""

import pytest
import torch

from dist_train.data.source import resize
from dist_train.errors import DataError


def test_resize_of_arrays_is_independent_of_the_batch() -> None:
    images = torch.randint(0, 256, (2050, 1, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    together = resize(images, 5)
    assert together.shape == (2050, 1, 5, 5)
    for index in (0, 1023, 1024, 2049):
        assert torch.equal(resize(images[index : index + 1], 5)[0], together[index])
    constant = resize(torch.full((1, 3, 4, 9), 200, dtype=torch.uint8), 8)
    assert bool((constant == 200).all())


def test_images_that_no_memory_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dist_train.data.memory.host_bytes", lambda: 10**9)
    with pytest.raises(DataError, match=r"^data.resize=10000: 7 images of 1x10000x10000 take 7\.0 GB of memory"):
        resize(torch.zeros(7, 1, 8, 8, dtype=torch.uint8), 10_000)
