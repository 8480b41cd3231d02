"""From uint8 images to what the model gets."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dist_train import seeds
from dist_train.data.augment import InputNoise, Preprocessing, crop_and_flip, open_preparation
from dist_train.settings.schema import Augment, Normalize

PLAIN = Normalize(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
ODD = Normalize(mean=(0.4, 0.5, 0.45), std=(0.2, 0.21, 0.3))
ALL = Augment(crop_padding=3, flip=True, cutout=5)


def preparation(normalize: Normalize = ODD, augment: Augment = ALL, **other: torch.memory_format) -> Preprocessing:
    return Preprocessing(
        normalize, augment, 7, torch.device("cpu"), other.get("memory_format", torch.contiguous_format)
    )


def images(count: int, height: int = 11, width: int = 9) -> Tensor:
    shape = (count, 3, height, width)
    return torch.randint(1, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(count))


def by_hand(stored: Tensor, normalize: Normalize, augment: Augment, epoch: int, index: int) -> "np.ndarray[Any, Any]":
    """What one image, uint8 [C, H, W], becomes, pixel by pixel and with one rounding an operation."""

    def drawn(purpose: str) -> int:
        return int(seeds.random_bits(7, (purpose,), epoch, torch.tensor([index])))

    height, width = stored.shape[1:]
    padding, places = augment.crop_padding, 2 * augment.crop_padding + 1
    padded = np.pad(stored.numpy(), ((0, 0), (padding, padding), (padding, padding)))
    top, left = (drawn(name) % places if padding else 0 for name in ("crop-row", "crop-column"))
    cropped = padded[:, top : top + height, left : left + width]
    if augment.flip and drawn("flip") % 2 == 1:
        cropped = cropped[:, :, ::-1]
    mean, std = (np.array(numbers)[:, None, None] for numbers in (normalize.mean, normalize.std))
    scale, shift = (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)
    found: np.ndarray[Any, Any] = cropped.astype(np.float32) * scale + shift
    if augment.cutout:
        row, column = drawn("cutout-row") % height, drawn("cutout-column") % width
        above, before = row - augment.cutout // 2, column - augment.cutout // 2
        found[:, max(0, above) : max(0, above + augment.cutout), max(0, before) : max(0, before + augment.cutout)] = 0
    return found


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["first", "last"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(11, 9), (8, 16), (1, 1)])
@pytest.mark.parametrize(
    "augment",
    [Augment(), Augment(flip=True), Augment(crop_padding=4), Augment(cutout=4), ALL],
    ids=["none", "flip", "crop", "cutout", "all"],
)
def test_bits_are_those_of_single_images(
    augment: Augment, size: tuple[int, int], channels: int, memory_format: torch.memory_format
) -> None:
    """To the sign of a zero, in a batch whose sizes are no multiples of what a processor takes at a time."""
    normalize = Normalize(mean=ODD.mean[:channels], std=ODD.std[:channels])
    stored = images(37, *size)[:, :channels].contiguous()
    stored[::5] = 0
    indices = torch.randperm(1000, generator=torch.Generator().manual_seed(1))[:37]
    found = preparation(normalize, augment, memory_format=memory_format).augment(stored, indices, epoch=3)
    expected = [by_hand(stored[row], normalize, augment, 3, int(indices[row])) for row in range(37)]
    assert found.is_contiguous(memory_format=memory_format)
    assert found.contiguous().numpy().tobytes() == np.stack(expected).tobytes()


def test_a_sample_is_augmented_the_same_in_any_batch() -> None:
    stored, indices = images(40), torch.arange(40) * 7 + 1000
    together = preparation().augment(stored, indices, epoch=2)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    for cut in (1, 7, 40):
        apart = [preparation().augment(stored[part], indices[part], epoch=2) for part in torch.split(order, cut)]
        assert torch.equal(torch.cat(apart), together[order])


def test_epochs_seeds_and_samples_differ() -> None:
    stored, indices = images(1).repeat(64, 1, 1, 1), torch.arange(64)
    first = crop_and_flip(stored, ALL, 7, 0, indices)
    assert not torch.equal(first, crop_and_flip(stored, ALL, 7, 1, indices))
    assert not torch.equal(first, crop_and_flip(stored, ALL, 8, 0, indices))
    assert len({image.numpy().tobytes() for image in first}) > 40


def test_crop_cuts_each_window_of_the_padded_image() -> None:
    """Each result is a window of the zero-padded original, and all windows come about equally often."""
    count, padding = 5000, 2
    stored = images(1).repeat(count, 1, 1, 1)
    cropped = crop_and_flip(stored, Augment(crop_padding=padding), 0, 0, torch.arange(count)).numpy()
    padded = np.pad(stored[0].numpy(), ((0, 0), (padding, padding), (padding, padding)))
    windows = [padded[:, y : y + 11, x : x + 9].tobytes() for y in range(5) for x in range(5)]
    found = [image.tobytes() for image in cropped]
    counts = [found.count(window) for window in windows]
    assert sum(counts) == count
    assert min(counts) > 140
    assert max(counts) < 260


def test_flip_mirrors_half_of_the_images() -> None:
    stored = images(1).repeat(2000, 1, 1, 1)
    flipped = crop_and_flip(stored, Augment(flip=True), 0, 0, torch.arange(2000))
    mirrored = (flipped == stored.flip(3)).flatten(1).all(1)
    kept = (flipped == stored).flatten(1).all(1)
    assert bool((mirrored | kept).all())
    assert 900 < int(mirrored.sum()) < 1100


def test_cutout_is_a_square_clipped_at_the_border() -> None:
    count, side = 3000, 5
    cut = preparation(PLAIN, Augment(cutout=side)).augment(images(count), torch.arange(count), 0) == 0
    rows, columns = cut[:, 0].any(2).sum(1), cut[:, 0].any(1).sum(1)
    assert torch.equal(cut[:, 0].sum((1, 2)), rows * columns)
    assert torch.equal(cut[:, 0], cut[:, 2])
    assert sorted(set(rows.tolist())) == [3, 4, 5]
    # Centres are uniform over 11 x 9 pixels: the first row is reached by those of the first three rows.
    assert int(cut[:, 0, 0].any(1).sum()) == pytest.approx(count * 3 / 11, rel=0.15)
    assert int(cut[:, 0, :, 8].any(1).sum()) == pytest.approx(count * 3 / 9, rel=0.15)


def test_cutout_larger_than_the_image_leaves_the_mean() -> None:
    assert not preparation(ODD, Augment(cutout=50)).augment(images(8), torch.arange(8), 0).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normalises_as_the_formula_says(dtype: torch.dtype) -> None:
    stored = images(6)
    torch.set_default_dtype(dtype)
    try:
        found = preparation().prepare(stored)
    finally:
        torch.set_default_dtype(torch.float32)
    mean, std = (np.array(numbers)[:, None, None] for numbers in (ODD.mean, ODD.std))
    assert found.dtype == dtype
    np.testing.assert_allclose(
        found.numpy(), (stored.numpy() / 255 - mean) / std, atol=1e-6 if dtype == torch.float32 else 1e-14
    )


def test_memory_format_changes_no_number() -> None:
    stored, indices = images(12), torch.arange(12)
    last = preparation(memory_format=torch.channels_last).augment(stored, indices, 1)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(last, preparation().augment(stored, indices, 1))


def test_nothing_is_changed_where_nothing_is_asked_for() -> None:
    stored = images(5)
    plain = preparation(ODD, Augment()).augment(stored, torch.arange(5), 0)
    assert torch.equal(plain, preparation().prepare(stored))
    assert torch.equal(stored, images(5))


def add_noise(inputs: Tensor, indices: Tensor, epoch: int = 0, seed: int = 7, std: float = 0.5) -> Tensor:
    return InputNoise(std, seed, torch.device("cpu")).add_(inputs.clone(), indices, epoch)


def test_noise_is_normal() -> None:
    found = add_noise(torch.zeros(4000, 5, 10), torch.arange(4000)).double()
    assert abs(found.mean()) < 0.004
    assert abs(found.std() - 0.5) < 0.004
    assert abs((found.abs() < 0.5).double().mean() - 0.6827) < 0.004
    assert abs(torch.corrcoef(found.flatten(1).T).fill_diagonal_(0)).max() < 0.08


def test_noise_is_a_function_of_seed_epoch_and_sample() -> None:
    rows, indices = torch.rand(101, 7), torch.randperm(10**6)[:101]
    whole = add_noise(rows, indices)
    for cut in (1, 3, 50):
        parts = [add_noise(*part) for part in zip(torch.split(rows, cut), torch.split(indices, cut), strict=True)]
        assert torch.equal(torch.cat(parts), whole)
    others = [add_noise(rows, indices, epoch=1), add_noise(rows, indices, seed=8), add_noise(rows, indices + 1)]
    assert all(((other - whole) != 0).double().mean() > 0.99 for other in others)
    assert torch.equal(add_noise(rows, indices, std=0.0), rows)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["first", "last"])
def test_images_get_noise_in_training_only(memory_format: torch.memory_format) -> None:
    stored, indices, device = images(9), torch.arange(9) + 40, torch.device("cpu")
    changes = Augment(crop_padding=2, flip=True, noise=0.3)
    noisy = open_preparation(ODD, changes, 7, device, memory_format)
    plain = open_preparation(ODD, changes.model_copy(update={"noise": 0.0}), 7, device, memory_format)
    assert torch.equal(noisy.prepare(stored), plain.prepare(stored))
    expected = add_noise(plain.augment(stored, indices, 2).contiguous(), indices, epoch=2, std=0.3)
    assert torch.equal(noisy.augment(stored, indices, 2), expected)
