"""The section `model`: which network is trained."""

from typing import Annotated, Literal

from pydantic import Field

from dist_train.settings.schema.section import (
    NO_ARGUMENTS,
    Arguments,
    ByName,
    FileName,
    Fraction,
    Reference,
    Section,
    Words,
)

Width = Annotated[int, Field(ge=1, le=10**5)]
Patterns = Annotated[tuple[FileName, ...], Field(min_length=1)]
Epoch = Annotated[str, Field(pattern=r"^[1-9]\d{0,8}$")]


class Model(Section):
    """The network."""

    name: str
    """The network. `mlp` has fully connected layers only and takes inputs of any kind, the others take images.
    `resnet18` has a stem for small images; `torchvision/<name>` is a classification model of
    torchvision, `timm/<name>` one of timm, if that is installed. Or your own `nn.Module` by its reference."""
    weights: FileName | None = None
    """The weights of step 0: a name that torchvision or timm has for this network, such as `DEFAULT`; a file of
    weights; the directory of a run, or one of its checkpoints; or the reference of a function that returns one of
    them. Floats of another precision are converted; anything else that does not fit is refused by its name. Default:
    random weights."""
    head: Annotated[str, Field(min_length=1)] | None = None
    """`new`: the weights of the last layer are not loaded, as for other classes; in a network of your own the layer
    gets as many outputs as the data have classes. The last layer is the linear layer or convolution that the network
    defines last; where that is another, its name in place of `new`, such as `fc`."""
    freeze: Literal["backbone"] | Patterns | None = None
    """Parameters that are not trained: `backbone`, all but those of the last layer, or patterns of their names, such
    as `["conv1.*", "layer[12].*"]`. They have no gradient and no state in the optimizer. Normalisation whose
    parameters are all frozen keeps its statistics."""
    unfreeze: Annotated[
        dict[Epoch, Patterns], Words('a mapping of epochs to lists of patterns, such as {2: ["layer4.*"]}')
    ] = NO_ARGUMENTS
    """Frozen parameters that are trained after some epochs: `{2: ["layer4.*"], 5: ["*"]}`."""


class ImageModel(Model):
    """A network for images, whose channels and classes follow from the data."""

    num_classes: Annotated[int, Field(ge=2, le=10**5)] | None = None
    """Outputs of the last layer. Default: the number of classes in the data; another number is refused."""


class SmallNet(ImageModel):
    """A network from a tutorial: two convolutions and fully connected layers."""

    name: Literal["lenet", "mnist_example", "mnist_cnn"]
    dropout: Fraction = 0.0
    """Probability of dropping an input of the last layer."""


class CifarTutorial(ImageModel):
    """The network of PyTorch's 60-minute tutorial."""

    name: Literal["cifar_tutorial"]
    dropout: Fraction = 0.0
    """Probability of dropping an input of the last layer."""
    channels: tuple[Width, Width] = (6, 16)
    """Channels that the two convolutions return."""
    hidden: tuple[Width, Width] = (120, 84)
    """Units of the two hidden layers."""


class ResNet18(ImageModel):
    """torchvision's ResNet-18 with a 3x3 stem and no max-pool."""

    name: Literal["resnet18"]


class MLP(Model):
    """Fully connected layers with an activation between each two."""

    name: Literal["mlp"]
    hidden: tuple[Width, ...] = (16,)
    """Units of each hidden layer. `[]`: a single linear layer."""
    activation: Literal["relu", "tanh", "sigmoid", "gelu", "silu", "elu", "leaky_relu"] = "relu"
    """What follows each hidden layer."""
    dropout: Fraction = 0.0
    """Probability of dropping an output of a hidden layer."""
    outputs: Width | None = None
    """Numbers that it returns for a sample. Default: one for each class in the data, or one if there are none."""


# fmt: off
TorchvisionName = Literal[
    "torchvision/alexnet", "torchvision/convnext_base", "torchvision/convnext_large", "torchvision/convnext_small",
    "torchvision/convnext_tiny", "torchvision/densenet121", "torchvision/densenet161", "torchvision/densenet169",
    "torchvision/densenet201", "torchvision/efficientnet_b0", "torchvision/efficientnet_b1",
    "torchvision/efficientnet_b2", "torchvision/efficientnet_b3", "torchvision/efficientnet_b4",
    "torchvision/efficientnet_b5", "torchvision/efficientnet_b6", "torchvision/efficientnet_b7",
    "torchvision/efficientnet_v2_l", "torchvision/efficientnet_v2_m", "torchvision/efficientnet_v2_s",
    "torchvision/googlenet", "torchvision/inception_v3", "torchvision/maxvit_t", "torchvision/mnasnet0_5",
    "torchvision/mnasnet0_75", "torchvision/mnasnet1_0", "torchvision/mnasnet1_3", "torchvision/mobilenet_v2",
    "torchvision/mobilenet_v3_large", "torchvision/mobilenet_v3_small", "torchvision/regnet_x_16gf",
    "torchvision/regnet_x_1_6gf", "torchvision/regnet_x_32gf", "torchvision/regnet_x_3_2gf",
    "torchvision/regnet_x_400mf", "torchvision/regnet_x_800mf", "torchvision/regnet_x_8gf",
    "torchvision/regnet_y_128gf", "torchvision/regnet_y_16gf", "torchvision/regnet_y_1_6gf",
    "torchvision/regnet_y_32gf", "torchvision/regnet_y_3_2gf", "torchvision/regnet_y_400mf",
    "torchvision/regnet_y_800mf", "torchvision/regnet_y_8gf", "torchvision/resnet101", "torchvision/resnet152",
    "torchvision/resnet18", "torchvision/resnet34", "torchvision/resnet50", "torchvision/resnext101_32x8d",
    "torchvision/resnext101_64x4d", "torchvision/resnext50_32x4d", "torchvision/shufflenet_v2_x0_5",
    "torchvision/shufflenet_v2_x1_0", "torchvision/shufflenet_v2_x1_5", "torchvision/shufflenet_v2_x2_0",
    "torchvision/squeezenet1_0", "torchvision/squeezenet1_1", "torchvision/swin_b", "torchvision/swin_s",
    "torchvision/swin_t", "torchvision/swin_v2_b", "torchvision/swin_v2_s", "torchvision/swin_v2_t",
    "torchvision/vgg11", "torchvision/vgg11_bn", "torchvision/vgg13", "torchvision/vgg13_bn", "torchvision/vgg16",
    "torchvision/vgg16_bn", "torchvision/vgg19", "torchvision/vgg19_bn", "torchvision/vit_b_16",
    "torchvision/vit_b_32", "torchvision/vit_h_14", "torchvision/vit_l_16", "torchvision/vit_l_32",
    "torchvision/wide_resnet101_2", "torchvision/wide_resnet50_2"
]
# fmt: on


class TorchvisionModel(ImageModel):
    """A classification model of torchvision."""

    name: TorchvisionName
    args: Arguments = NO_ARGUMENTS
    """More arguments of its constructor."""


class TimmModel(ImageModel):
    """A model of timm."""

    shown_name = "timm/<model>"
    name: Annotated[str, Field(pattern=r"^timm/[A-Za-z0-9_.]+$")]
    args: Arguments = NO_ARGUMENTS
    """More arguments of `timm.create_model`."""


class OwnModel(Model):
    """A network of your own."""

    name: Reference
    args: Arguments = NO_ARGUMENTS
    """Arguments of the class or function; it gets no others."""


AnyModel = Annotated[SmallNet | CifarTutorial | ResNet18 | MLP | TorchvisionModel | TimmModel | OwnModel, ByName()]
