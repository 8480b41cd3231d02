"""A trained network with its preprocessing: every kind of input gives the logits of an evaluation."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dist_train import TrainedModel, TrainingResult, load_config, load_model, train
from dist_train.data import open_dataset
from dist_train.distributed.world import World
from dist_train.errors import CheckpointError, DataError
from dist_train.settings.schema import ImageData

SMALL = ["data.limit_train=96", "data.limit_test=40", "train.epochs=2"]


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    folder = tmp_path_factory.mktemp("grey")
    return train(load_config("digits", [*SMALL, f"run.dir={folder / 'run'}", "train.ema_decay=0.9"]))


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """A training on folders of PNG files, 20 x 14 pixels scaled to 12 x 12."""
    folder = tmp_path_factory.mktemp("coloured")
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cats", "dogs"):
            (folder / split / name).mkdir(parents=True)
            for number in range(8):
                pixels = random.integers(0, 256, (20, 14, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    settings = [
        f"data.root={folder}",
        "data.resize=12",
        "data.global_batch=8",
        "train.epochs=1",
        "model.name=mnist_cnn",
    ]
    path = folder / "own.yaml"
    path.write_text("data: {name: image_folder}\nmodel: {name: mnist_cnn}\n")
    return train(load_config(path, [*settings, f"run.dir={folder / 'run'}"]))


def raw(result: TrainingResult) -> Tensor:
    """Images of the test split, uint8 [B, C, H, W]."""
    config = load_config(result.run_dir / "config.yaml")
    dataset = open_dataset(config.data, config.run.seed, World())
    assert dataset.test is not None
    ((images, _),) = dataset.test.read(torch.arange(5), 0)
    assert isinstance(images, Tensor)
    return images


def test_it_is_in_evaluation_mode_and_knows_its_run(grey: TrainingResult) -> None:
    model = load_model(grey.run_dir)
    assert isinstance(model, TrainedModel)
    assert (model.training, model.network.training, model.step) == (False, False, grey.step)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.classes == tuple(map(str, range(10)))
    assert model.config.run.name == "digits"


@pytest.mark.parametrize("which", ["latest", "best", "6"])
def test_it_predicts_as_the_evaluation_says(grey: TrainingResult, which: str) -> None:
    config = load_config(grey.run_dir / "config.yaml")
    test = open_dataset(config.data, config.run.seed, World()).test
    assert test is not None
    ((images, labels),) = test.read(torch.arange(len(test)), 0)
    correct = (load_model(grey.run_dir, which)(images).argmax(1) == labels).sum()
    if which != "best":
        assert int(correct) == grey.evaluations["test"]["correct"]


def test_every_kind_of_picture_is_taken(coloured: TrainingResult) -> None:
    model = load_model(coloured.run_dir)
    assert isinstance(model.config.data, ImageData)
    root = Path(model.config.data.root)
    paths = sorted((root / "test" / "cats").iterdir())[:3]
    pictures = [Image.open(path).convert("RGB") for path in paths]
    expected = model(raw(coloured)[:3])
    given: dict[str, Any] = {
        "paths": paths,
        "names of files": list(map(str, paths)),
        "pictures": pictures,
        "tuple": tuple(pictures),
        "prepared": model.preprocess(pictures),
        "mixed": [str(paths[0]), pictures[1], paths[2]],
    }
    for kind, inputs in given.items():
        assert torch.equal(model(inputs), expected), kind
    assert torch.allclose(model(pictures[0]), expected[:1], atol=1e-6)  # sums go in another order
    assert torch.equal(model(paths[0]), model(str(paths[0])))
    arrays = [np.asarray(picture) for picture in pictures]
    tensors = [torch.from_numpy(array.transpose(2, 0, 1).copy()) for array in arrays]
    assert torch.equal(model(arrays), model(tensors))  # scaled by torch, not by PIL
    assert torch.allclose(model(tensors), expected, atol=0.05)
    assert torch.equal(model(torch.stack(tensors)), model(tensors))


def test_grey_pictures_are_taken_in_any_mode(grey: TrainingResult) -> None:
    model, images = load_model(grey.run_dir), raw(grey)
    picture = Image.fromarray(images[0, 0].numpy())
    for mode in ("L", "RGB", "RGBA", "P"):
        assert torch.equal(model(picture.convert(mode)), model(images[0])), mode
    assert torch.equal(model(images[0, 0].numpy()), model(images[0]))


def test_a_picture_of_another_size_is_refused_with_both(grey: TrainingResult) -> None:
    model = load_model(grey.run_dir)
    for wrong in (torch.zeros(1, 29, 28, dtype=torch.uint8), torch.zeros(2, 3, 28, 28, dtype=torch.uint8)):
        shape = "x".join(map(str, wrong.shape[-3:]))
        with pytest.raises(DataError, match=rf"a picture is {shape} .* trained on 1x28x28: scale"):
            model(wrong)
    with pytest.raises(DataError, match=r"no-such\.png: is not a readable image"):
        model("no-such.png")


def test_what_is_no_run_or_no_checkpoint_is_refused(grey: TrainingResult, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a run"):
        load_model(tmp_path)
    with pytest.raises(CheckpointError, match="7"):
        load_model(grey.run_dir, "7")


def test_the_generator_of_the_process_stays(grey: TrainingResult) -> None:
    before = torch.get_rng_state()
    load_model(grey.run_dir)
    assert torch.equal(torch.get_rng_state(), before)
