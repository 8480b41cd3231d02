"""The last layer: found in networks of every family, and replaced for other classes."""

import pytest
import torch
from torch import nn

from dist_train.errors import ConfigError
from dist_train.models import MODELS
from dist_train.models.head import count_outputs, find_head, replace_head

FAMILIES = {
    "alexnet": "classifier.6",
    "convnext_tiny": "classifier.2",
    "densenet121": "classifier",
    "resnet18": "fc",
    "efficientnet_b0": "classifier.1",
    "inception_v3": "fc",
    "googlenet": "fc",
    "maxvit_t": "classifier.5",
    "mnasnet0_5": "classifier.1",
    "mobilenet_v2": "classifier.1",
    "mobilenet_v3_small": "classifier.3",
    "regnet_y_400mf": "fc",
    "shufflenet_v2_x0_5": "fc",
    "squeezenet1_1": "classifier.1",
    "swin_t": "head",
    "vgg11": "classifier.6",
    "vit_b_16": "heads.head",
}


@pytest.mark.parametrize(("name", "head"), FAMILIES.items())
def test_the_head_of_each_family_of_torchvision_is_found(name: str, head: str) -> None:
    from dist_train.models import torchvision_models

    side = 299 if name == "inception_v3" else 224
    computes_widths = name.startswith("regnet")  # from tensors with values
    with torch.device("cpu" if computes_widths else "meta"):
        network = torchvision_models.build(name, (3, side, side), 7)
    assert find_head(network, "new") == head
    assert count_outputs(network.get_submodule(head)) == 7


@pytest.mark.parametrize("name", MODELS)
def test_the_head_of_each_network_of_ours_is_found(name: str) -> None:
    with torch.device("meta"):
        network = MODELS[name](shape=(3, 32, 32), num_classes=7)
    assert count_outputs(network.get_submodule(find_head(network, "new"))) == 7


@pytest.mark.parametrize(
    "layer",
    [nn.Linear(3, 5), nn.Linear(3, 5, bias=False), nn.Linear(3, 5).double(), nn.Conv1d(3, 5, 1), nn.Conv2d(3, 5, 3, 2)],
    ids=str,
)
def test_a_head_is_replaced_by_one_of_its_kind(layer: nn.Module) -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Sequential(layer, nn.ReLU()))
    replace_head(network, find_head(network, "new"), 4)
    new = network.get_submodule("1.0")
    assert str(new) == str(layer).replace("out_features=5", "out_features=4").replace("(3, 5,", "(3, 4,")
    assert [each.dtype for each in new.parameters()] == [each.dtype for each in layer.parameters()]


def test_a_head_with_the_right_outputs_stays() -> None:
    network = nn.Sequential(layer := nn.Linear(3, 5))
    replace_head(network, "0", 5)
    assert network[0] is layer


@pytest.mark.parametrize(
    ("network", "wanted", "message"),
    [
        (nn.Sequential(nn.ReLU()), "new", "no linear layer and no convolution; give the layer's name"),
        (nn.ModuleDict({"head": nn.ReLU()}), "heat", "is heat: the network has no .* did you mean head"),
        (nn.ModuleDict({"head": nn.Bilinear(2, 2, 3)}), "head", "a Bilinear, which can't be replaced by one with 4"),
        (nn.Sequential(nn.LazyLinear(3)), "new", "0 is a LazyLinear, which can't be replaced"),
    ],
)
def test_a_head_that_is_none_is_refused(network: nn.Module, wanted: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace_head(network, find_head(network, wanted), 4)
