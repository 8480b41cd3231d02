"""The networks have the size and the names of their originals, and weights that depend on the seed only."""

from typing import get_args

import pytest
import torch
from torch import nn

from dist_train import seeds
from dist_train.checkpoint.serialization import load_weights, weights_sha256
from dist_train.errors import ConfigError, DataError
from dist_train.models import MODELS, build_model
from dist_train.settings.schema import CifarTutorial, Model, ResNet18, SmallNet, TorchvisionModel, TorchvisionName
from tests.unit.dist_train.models import lessons

Shape = tuple[int, int, int]
LENET = SmallNet(name="lenet")
MNIST_EXAMPLE = SmallNet(name="mnist_example")
MNIST_CNN = SmallNet(name="mnist_cnn")
TUTORIAL = CifarTutorial(name="cifar_tutorial")
RESNET = ResNet18(name="resnet18")


def count(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize(
    ("config", "shape", "weights"),
    [
        (LENET, (1, 32, 32), 61_706),
        (MNIST_EXAMPLE, (1, 28, 28), 431_080),
        (MNIST_CNN, (1, 28, 28), 20_490),
        (TUTORIAL, (3, 32, 32), 62_006),
        (RESNET, (3, 32, 32), 11_173_962),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_network_has_the_size_of_its_original(config: Model, shape: Shape, weights: int) -> None:
    model = build_model(config, shape, 10, seed=0)
    assert count(model) == weights
    assert model.training
    assert model(torch.zeros(4, *shape)).shape == (4, 10)


def test_outputs_follow_the_classes_and_inputs_the_channels() -> None:
    for config in (LENET, MNIST_EXAMPLE, MNIST_CNN, TUTORIAL, RESNET):
        model = build_model(config, (2, 32, 40), 7, seed=0)
        assert model(torch.zeros(2, 2, 32, 40)).shape == (2, 7)


@pytest.mark.parametrize(
    ("config", "lesson", "shape"),
    [
        (LENET, lessons.LeNet, (1, 32, 32)),
        (MNIST_EXAMPLE, lessons.MnistNet, (1, 28, 28)),
        (SmallNet(name="mnist_cnn", dropout=0.5), lessons.MnistCNN, (1, 28, 28)),
        (CifarTutorial(name="cifar_tutorial", dropout=0.5), lessons.CifarNet, (3, 32, 32)),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_weights_load_into_the_class_of_the_lesson(config: Model, lesson: type[nn.Module], shape: Shape) -> None:
    ours, theirs = build_model(config, shape, 10, seed=0).eval(), lesson()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours(images), theirs(images))
    for network in (ours, theirs):
        network(images).square().sum().backward()
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=0, atol=0)


def test_weights_of_an_older_mnist_cnn_load_under_their_names_of_today() -> None:
    saved = {}
    for name, weight in build_model(MNIST_CNN, (1, 28, 28), 10, seed=1).state_dict().items():
        layer, *_, kind = name.replace("output", "fc1").split(".")
        saved[f"{layer}.{kind}"] = weight
    assert list(saved) == [f"{layer}.{kind}" for layer in ("conv1", "conv2", "fc1") for kind in ("weight", "bias")]
    network = build_model(MNIST_CNN, (1, 28, 28), 10, seed=0)
    load_weights(network, saved, "model.pt")
    for weight, expected in zip(network.parameters(), saved.values(), strict=True):  # the order that optimizers use
        assert torch.equal(weight, expected)


def test_initial_weights_are_those_of_the_lesson_from_the_same_generator() -> None:
    torch.manual_seed(seeds.derive(3, "weights"))
    lesson = lessons.MnistCNN()
    ours = build_model(MNIST_CNN, (1, 28, 28), 10, seed=3)
    assert weights_sha256(ours.state_dict()) == weights_sha256(lesson.state_dict())


@pytest.mark.parametrize("config", [LENET, RESNET], ids=lambda config: config.name)
def test_weights_are_a_function_of_the_seed(config: Model) -> None:
    def weights(seed: int) -> str:
        torch.rand(3)  # wherever torch's own generator is
        return weights_sha256(build_model(config, (1, 32, 32), 10, seed).state_dict())

    assert weights(1) == weights(1)
    assert weights(1) != weights(2)


def test_a_new_network_has_seen_nothing() -> None:
    batches = build_model(RESNET, (3, 32, 32), 10, seed=0).get_buffer("bn1.num_batches_tracked")
    assert int(batches) == 0


def test_channels_and_units_are_those_of_the_settings() -> None:
    wide = CifarTutorial(name="cifar_tutorial", channels=(12, 32), hidden=(240, 168))
    state = build_model(wide, (3, 32, 32), 10, seed=0).state_dict()
    shapes = {name: list(tensor.shape) for name, tensor in state.items() if name.endswith("weight")}
    assert shapes == {
        "conv1.weight": [12, 3, 5, 5],
        "conv2.weight": [32, 12, 5, 5],
        "fc1.weight": [240, 32 * 5 * 5],
        "fc2.weight": [168, 240],
        "fc3.weight": [10, 168],
    }


def test_dropout_drops_inputs_of_the_last_layer_in_training_only() -> None:
    model = build_model(SmallNet(name="mnist_example", dropout=0.5), (1, 28, 28), 10, seed=0)
    inputs: list[int] = []
    model.get_submodule("dropout").register_forward_hook(lambda _, given, __: inputs.append(given[0].shape[1]))
    image = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(model(image), model(image))
    assert inputs[0] == model.get_submodule("fc2").in_features
    model.eval()
    assert torch.equal(model(image), model(image))


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (LENET, (1, 8, 8)),
        (LENET, (1, 12, 12)),
        (MNIST_CNN, (1, 3, 3)),
        (TUTORIAL, (3, 8, 32)),
        (TorchvisionModel(name="torchvision/alexnet"), (3, 28, 28)),
    ],
)
def test_images_that_do_not_fit_are_refused(config: Model, shape: Shape) -> None:
    text = "x".join(map(str, shape))
    with pytest.raises(DataError, match=rf"^model\.name {config.name} does not take images of {text} .*data\.resize"):
        build_model(config, shape, 10, seed=0)


def test_another_number_of_classes_is_refused() -> None:
    wanted = SmallNet(name="lenet", num_classes=11)
    with pytest.raises(ConfigError, match=r"model\.num_classes is 11, but the data has 10 classes"):
        build_model(wanted, (1, 32, 32), 10, seed=0)
    assert build_model(wanted, (1, 32, 32), 11, seed=0)(torch.zeros(1, 1, 32, 32)).shape == (1, 11)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_of_torchvision_takes_the_data_s_channels(channels: int) -> None:
    config = TorchvisionModel(name="torchvision/squeezenet1_1")
    model = build_model(config, (channels, 32, 32), 5, seed=0)
    assert model.get_parameter("features.0.weight").shape == (64, channels, 3, 3)
    assert model(torch.zeros(2, channels, 32, 32)).shape == (2, 5)


def test_the_table_of_torchvision_s_networks_is_torchvision_s() -> None:
    from torchvision import models

    there = {f"torchvision/{name}" for name in models.list_models(module=models)}
    assert set(get_args(TorchvisionName)) <= there


def test_a_refusal_without_words_is_still_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(**_: object) -> nn.Module:
        raise AssertionError

    monkeypatch.setitem(MODELS, "lenet", build)
    with pytest.raises(DataError, match=r"does not take images of 1x32x32 .*: AssertionError\(\)\. Set data\.resize"):
        build_model(LENET, (1, 32, 32), 10, seed=0)


def test_the_stem_of_resnet18_keeps_small_images_whole() -> None:
    model = build_model(RESNET, (3, 32, 32), 10, seed=0)
    sides: list[int] = []
    model.get_submodule("layer1").register_forward_pre_hook(lambda _, inputs: sides.append(inputs[0].shape[-1]))
    model(torch.zeros(2, 3, 32, 32))
    assert sides == [32]


def test_resnet18_is_torchvision_s_behind_the_stem() -> None:
    from torchvision import models

    original = models.resnet18(num_classes=7)
    original.conv1 = nn.Conv2d(2, 64, kernel_size=3, padding=1, bias=False)
    original.maxpool = nn.Identity()
    model = build_model(RESNET, (2, 32, 32), 7, seed=0)
    assert [name for name, _ in model.named_modules() if name] == [
        name for name, _ in original.named_modules() if name not in ("", "maxpool")
    ]
    model.load_state_dict(original.state_dict())
    images = torch.rand(2, 2, 32, 32)
    for mode in (False, True):
        torch.testing.assert_close(model.train(mode)(images), original.train(mode)(images))


def test_the_weights_of_resnet18_begin_as_torchvision_s_do() -> None:
    from torchvision import models

    torch.manual_seed(0)
    original = models.resnet18(num_classes=10)
    for name, weight in build_model(RESNET, (3, 32, 32), 10, seed=0).named_parameters():
        if name != "conv1.weight":  # the stem has another shape
            assert weight.std().item() == pytest.approx(original.get_parameter(name).std().item(), rel=0.1), name
            assert weight.mean().item() == pytest.approx(original.get_parameter(name).mean().item(), abs=0.01), name
