"""The networks: their size and names are the originals', their weights the seed's, and misfits are refused."""

from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dist_train.checkpoint.serialization import weights_sha256
from dist_train.errors import ConfigError, DataError
from dist_train.models import build_model
from dist_train.models.convolutional import Pooling
from dist_train.settings.schema import CifarTutorial, Model, ResNet18, SmallNet, TorchvisionModel, TorchvisionName

Shape = tuple[int, int, int]
LENET = SmallNet(name="lenet")
MNIST_EXAMPLE = SmallNet(name="mnist_example")
TUTORIAL = CifarTutorial(name="cifar_tutorial")
RESNET = ResNet18(name="resnet18")


class TutorialNet(nn.Module):
    """As "Training a classifier" of PyTorch's 60-minute tutorial writes it out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(functional.relu(self.conv1(x)))
        x = self.pool(functional.relu(self.conv2(x)))
        x = torch.flatten(x, 1)
        x = functional.relu(self.fc1(x))
        x = functional.relu(self.fc2(x))
        return self.fc3(x)  # type: ignore[no-any-return]


class ExampleNet(nn.Module):
    """As PyTorch's MNIST example wrote it out in 2019."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5, 1)
        self.conv2 = nn.Conv2d(20, 50, 5, 1)
        self.fc1 = nn.Linear(4 * 4 * 50, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2, 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2, 2)
        x = x.view(-1, 4 * 4 * 50)
        x = functional.relu(self.fc1(x))
        return functional.log_softmax(self.fc2(x), dim=1)


def count(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize(
    ("config", "shape", "weights"),
    [
        (LENET, (1, 32, 32), 61_706),
        (MNIST_EXAMPLE, (1, 28, 28), 431_080),
        (SmallNet(name="mnist_cnn"), (1, 28, 28), 20_490),
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
    for config in (LENET, MNIST_EXAMPLE, TUTORIAL, RESNET):
        model = build_model(config, (2, 32, 40), 7, seed=0)
        assert model(torch.zeros(2, 2, 32, 40)).shape == (2, 7)


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (LENET, ["conv1", "conv2", "fc1", "fc2", "fc3"]),
        (MNIST_EXAMPLE, ["conv1", "conv2", "fc1", "fc2"]),
        (SmallNet(name="mnist_cnn", dropout=0.5), ["conv1", "conv2", "fc1"]),
        (CifarTutorial(name="cifar_tutorial", dropout=0.5), ["conv1", "conv2", "fc1", "fc2", "fc3"]),
    ],
)
def test_layers_have_the_names_of_the_lessons(config: Model, names: list[str]) -> None:
    state = build_model(config, (3, 32, 32), 10, seed=0).state_dict()
    assert list(state) == [f"{name}.{kind}" for name in names for kind in ("weight", "bias")]


@pytest.mark.parametrize(
    ("config", "original", "shape"), [(TUTORIAL, TutorialNet, (3, 32, 32)), (MNIST_EXAMPLE, ExampleNet, (1, 28, 28))]
)
def test_weights_load_into_the_class_of_the_lesson(config: Model, original: type[nn.Module], shape: Shape) -> None:
    ours, theirs = build_model(config, shape, 10, seed=0), original()
    theirs.load_state_dict(ours.state_dict())
    images = torch.rand(5, *shape, generator=torch.Generator().manual_seed(0))
    expected = theirs(images)
    found = functional.log_softmax(ours(images), dim=1) if original is ExampleNet else ours(images)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


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


def test_width_multiplies_what_is_between_images_and_classes() -> None:
    state = build_model(CifarTutorial(name="cifar_tutorial", width=2), (3, 32, 32), 10, seed=0).state_dict()
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
    assert [name for name, _ in model.named_children()][-2:] == ["dropout", "fc2"]
    image = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(model(image), model(image))
    model.eval()
    assert torch.equal(model(image), model(image))


@pytest.mark.parametrize(
    ("config", "shape"),
    [(LENET, (1, 8, 8)), (TUTORIAL, (3, 8, 32)), (TorchvisionModel(name="torchvision/alexnet"), (3, 28, 28))],
    ids=["lenet", "cifar_tutorial", "alexnet"],
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
    def build(*_: object) -> nn.Module:
        raise AssertionError

    monkeypatch.setattr("dist_train.models.lenet.build", build)
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


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_added_channels_change_no_number(memory_format: torch.memory_format) -> None:
    """Six channels become eight where they lie innermost."""
    network, lesson = build_model(TUTORIAL, (3, 32, 32), 10, 0), TutorialNet()
    lesson.load_state_dict(network.state_dict())
    network.to(memory_format=memory_format)
    images = torch.randn(9, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    formatted = images.contiguous(memory_format=memory_format)
    computed = network.conv1(formatted)  # type: ignore[operator]
    assert computed.shape[1] == (8 if memory_format == torch.channels_last else 6)
    torch.testing.assert_close(network(formatted), lesson(images))
    network(formatted).square().sum().backward()
    lesson(images).square().sum().backward()
    for ours, theirs in zip(network.parameters(), lesson.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 8, 12, 10), (2, 20, 6, 6), (3, 6, 7, 4)], ids=["even", "wide", "odd"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_pooling_is_torchs_own_to_the_bit(
    shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    generator = torch.Generator().manual_seed(0)
    # Of few values, so that many windows have several that are largest.
    values = torch.randint(-3, 4, shape, generator=generator).to(dtype).contiguous(memory_format=memory_format)
    ours, theirs = (values.detach().requires_grad_() for _ in range(2))
    found, expected = Pooling()(ours), nn.MaxPool2d(2)(theirs)
    gradient = torch.randn(expected.shape, generator=generator).to(dtype)
    for pooled in (found, expected):
        pooled.backward(gradient)
    assert torch.equal(found, expected)
    assert found.stride() == expected.stride()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.equal(ours.grad, theirs.grad)
    with torch.no_grad():
        assert torch.equal(Pooling()(ours), expected)
