"""Every setting: its name, default, documentation and check, one class a section.

The text under a field is its documentation: `python -m dist_train --settings` prints it. Reading a file is the matter
of `loading`; nothing here imports torch, so that a wrong key is found in a fraction of a second, on a login node too.
A part of the program receives its own section (`build_optimizer(config.optim, ...)`), never the whole.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Field

Auto = Literal["auto"]
Positive = Annotated[int, Field(ge=1)]
Side = Annotated[int, Field(ge=1, le=10**4)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]
Above = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A part of the settings; frozen: nobody edits a setting after it was read."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Run(Section):
    """What the run is called, where it lies, and how it starts."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
    """Name of the run. Default: the name of the settings' file without its ending."""
    dir: Annotated[str, Field(min_length=1)]
    """Directory of everything that the run writes. Default: `runs/<name>`."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of everything random: weights, order, augmentation, dropout, the validation split."""
    resume: Annotated[str, Field(min_length=1)] = "auto"
    """`auto`: go on from the newest checkpoint, if there is one. `never`: start anew, and move an earlier run of this
    name aside to `<dir>.old-1`. A path: a run, or a checkpoint of another run, to start from."""
    reproducible: Literal["elastic", "bitwise"] = "elastic"
    """What stays the same when the number of ranks changes. `elastic`: samples, order, augmentation and learning rate;
    the loss to float tolerance. `bitwise`: every bit of the weights too, on the same kind of hardware, at any number of
    ranks that divides `distributed.shards`; it costs speed."""
    time_limit_minutes: Above | None = None
    """Finish the step, save and stop, with exit code 75, this long after the launcher has started. Default: no
    limit."""
    deterministic: bool = False
    """Let torch use deterministic kernels only (`torch.use_deterministic_algorithms`), and fail where it has none.
    On CPU the supplied models are exact without it; on a GPU it costs speed."""


class Augment(Section):
    """Random changes of the training images, each a function of (seed, epoch, sample index)."""

    crop_padding: Annotated[int, Field(ge=0, le=256)] = 0
    """Pad each side with this many black pixels and cut a random window of the original size. 0: off."""
    flip: bool = False
    """Mirror left to right with probability 1/2."""
    cutout: Annotated[int, Field(ge=0, le=10**4)] = 0
    """Side in pixels of a random square set to the mean (DeVries and Taylor, arXiv:1708.04552). 0: off."""


class Normalize(Section):
    """Statistics in the unit of images scaled to 0..1, one number a channel."""

    mean: Annotated[tuple[float, ...], Field(min_length=1)]
    """Subtracted from each channel."""
    std: Annotated[tuple[Above, ...], Field(min_length=1)]
    """What each channel is divided by after that."""


class Data(Section):
    """Which images, how many a step, and how they reach the model."""

    name: str
    """The data set: `mnist`, `fashion_mnist`, `kmnist`, `cifar10`, `cifar100`, `digits` (comes with scikit-learn, needs
    no network), `image_folder` (reads `<root>/{train,test}/<class>/*`) or `synthetic` (made from the seed, for
    tests)."""
    root: Annotated[str, Field(min_length=1)]
    """Where the data set's files lie. Default: `$DIST_TRAIN_DATA`, else `data`. Only a download writes there."""
    download: bool = True
    """Download files that are missing under `root`, where the data set has an address."""
    global_batch: Positive = 64
    """Samples in one optimizer step, over all ranks together."""
    validation: Fraction = 0.0
    """Fraction of the training split, chosen by the seed, that is held out and evaluated while training. The last
    evaluation of a run is of the test split in any case."""
    loader: Literal["auto", "in_memory", "workers"] = "auto"
    """`in_memory`: all images decoded once and kept in memory (of the GPU, where there is one). `workers`: read by
    worker processes as they are needed. `auto`: in_memory if it fits. The batches are the same."""
    workers: Annotated[int, Field(ge=0, le=256)] = 2
    """Worker processes per rank of the `workers` loader; 0 reads in the rank itself."""
    normalize: Auto | Normalize = "auto"
    """`auto`: the data set's known mean and std, computed once from the training split where none are known. Or
    `{mean: [...], std: [...]}`."""
    cache: Annotated[str, Field(min_length=1)]
    """Where decoded images and computed statistics are kept. Default: `${XDG_CACHE_HOME:-~/.cache}/dist-train`."""
    augment: Augment = Augment()
    """Random changes of the training images; none by default."""
    resize: Annotated[int, Field(ge=1, le=10**4)] | None = None
    """Scale the shorter side to this many pixels and cut the middle square."""
    limit_train: Positive | None = None
    """Use only this many training samples, evenly spaced over the split."""
    limit_test: Positive | None = None
    """Use only this many test samples, evenly spaced over the split."""


class StoredData(Data):
    """A data set that lies in files."""

    name: Literal["mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100", "digits", "image_folder"]


class SyntheticData(Data):
    """Images made from the seed: a pattern for each class, and noise."""

    name: Literal["synthetic"]
    shape: tuple[Side, Side, Side] = (1, 28, 28)
    """Channels, height and width."""
    num_classes: Annotated[int, Field(ge=2)] = 10
    """How many classes there are."""
    num_train: Annotated[int, Field(ge=1, le=10**8)] = 1024
    """Samples in the training split."""
    num_test: Annotated[int, Field(ge=1, le=10**8)] = 256
    """Samples in the test split."""


class Model(Section):
    """A network of `dist_train/models/`; its input channels follow the data."""

    name: str
    """The network: `lenet`, `mnist_example`, `mnist_cnn`, `cifar_tutorial`, `resnet18` (with a stem for small
    images), or `torchvision/<name>` for a classification model of torchvision."""
    num_classes: Annotated[int, Field(ge=2)] | None = None
    """Outputs of the last layer. Default: the number of classes in the data, which it has to equal."""


class SmallNet(Model):
    """Two convolutions and fully connected layers, from the lessons that the world learnt on."""

    name: Literal["lenet", "mnist_example", "mnist_cnn"]
    dropout: Fraction = 0.0
    """Probability with which an input of the last layer is dropped."""


class CifarTutorial(Model):
    """The network of PyTorch's 60-minute tutorial."""

    name: Literal["cifar_tutorial"]
    dropout: Fraction = 0.0
    """Probability with which an input of the last layer is dropped."""
    width: Annotated[int, Field(ge=1, le=256)] = 1
    """Multiplies the channels of both convolutions and the units of both hidden layers."""


class ResNet18(Model):
    """torchvision's ResNet-18 with a 3x3 stem and no max-pool."""

    name: Literal["resnet18"]


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


class TorchvisionModel(Model):
    """A classification model of torchvision, from random weights."""

    name: TorchvisionName


class Optim(Section):
    """The update of the weights; an optimizer's own arguments go by their names in torch."""

    name: str
    """The optimizer, by its name in torch in small letters. Default: `sgd`."""
    lr: NonNegative
    """Learning rate; the peak, where the schedule changes it. Default: the optimizer's own in torch."""
    schedule: Literal["constant", "step", "multistep", "cosine", "onecycle"] = "constant"
    """How the learning rate changes: a function of the step, evaluated before each."""
    warmup_epochs: Annotated[float, Field(ge=0, le=10**6)] = 0.0
    """Epochs over which the learning rate rises linearly to that of the schedule."""
    step_size: Annotated[float, Field(gt=0, le=10**6)] = 30.0
    """Schedule `step`: multiply by `gamma` every this many epochs."""
    milestones: tuple[Annotated[float, Field(gt=0, le=10**6)], ...] = ()
    """Schedule `multistep`: multiply by `gamma` at each of these epochs."""
    gamma: Above = 0.1
    """Schedules `step` and `multistep`: the factor."""
    eta_min: NonNegative = 0.0
    """Schedule `cosine`: the learning rate at the end."""
    pct_start: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Schedule `onecycle`: the fraction of all steps in which the learning rate rises."""
    div_factor: Annotated[float, Field(ge=1)] = 25.0
    """Schedule `onecycle`: it starts at `lr / div_factor`."""
    final_div_factor: Annotated[float, Field(ge=1)] = 1e4
    """Schedule `onecycle`: it ends at `lr / div_factor / final_div_factor`."""

    def arguments(self) -> dict[str, Any]:
        """The optimizer's own arguments, `lr` among them, as its constructor in torch takes them."""
        own = set(type(self).model_fields) - set(Optim.model_fields) | {"lr"}
        return self.model_dump(include=own)


Betas = tuple[Fraction, Fraction]


class SGD(Optim):
    name: Literal["sgd"]
    lr: NonNegative = 1e-3
    momentum: NonNegative = 0.0
    dampening: float = 0.0
    weight_decay: NonNegative = 0.0
    nesterov: bool = False


class Adam(Optim):
    name: Literal["adam"]
    lr: NonNegative = 1e-3
    betas: Betas = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    amsgrad: bool = False
    decoupled_weight_decay: bool = False


class AdamW(Optim):
    name: Literal["adamw"]
    lr: NonNegative = 1e-3
    betas: Betas = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 1e-2
    amsgrad: bool = False


class Adagrad(Optim):
    name: Literal["adagrad"]
    lr: NonNegative = 1e-2
    lr_decay: NonNegative = 0.0
    weight_decay: NonNegative = 0.0
    initial_accumulator_value: NonNegative = 0.0
    eps: NonNegative = 1e-10


class RMSprop(Optim):
    name: Literal["rmsprop"]
    lr: NonNegative = 1e-2
    alpha: NonNegative = 0.99
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    momentum: NonNegative = 0.0
    centered: bool = False


class Adadelta(Optim):
    name: Literal["adadelta"]
    lr: NonNegative = 1.0
    rho: Annotated[float, Field(ge=0, le=1)] = 0.9
    eps: NonNegative = 1e-6
    weight_decay: NonNegative = 0.0


class Adamax(Optim):
    name: Literal["adamax"]
    lr: NonNegative = 2e-3
    betas: Betas = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0


class NAdam(Optim):
    name: Literal["nadam"]
    lr: NonNegative = 2e-3
    betas: Betas = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    momentum_decay: NonNegative = 4e-3
    decoupled_weight_decay: bool = False


class RAdam(Optim):
    name: Literal["radam"]
    lr: NonNegative = 1e-3
    betas: Betas = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    decoupled_weight_decay: bool = False


class ASGD(Optim):
    name: Literal["asgd"]
    lr: NonNegative = 1e-2
    lambd: NonNegative = 1e-4
    alpha: NonNegative = 0.75
    t0: NonNegative = 1e6
    weight_decay: NonNegative = 0.0


class Rprop(Optim):
    name: Literal["rprop"]
    lr: NonNegative = 1e-2
    etas: tuple[Annotated[float, Field(gt=0, lt=1)], Annotated[float, Field(gt=1)]] = (0.5, 1.2)
    step_sizes: tuple[Above, Above] = (1e-6, 50.0)


class Train(Section):
    """How long, in which precision and format, and what is done to gradients and weights."""

    epochs: Positive | None = None
    """Passes over the training split. Default: 10 where `max_steps` is not given either."""
    max_steps: Positive | None = None
    """Optimizer steps after which the run ends, if it has not before."""
    micro_batch: Positive | None = None
    """Most samples per rank in one backward pass; a rank with more accumulates gradients. Default: no limit."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "fp32"
    """Type of the arithmetic inside autocast; weights stay fp32. `auto`: bf16 on hardware made for it, but for
    convolutions so small that it does not pay, else fp32. `tf32`: fp32 whose matrix products and convolutions drop 13
    bits of the mantissa, on GPUs that have it (compute capability 8.0 and newer)."""
    channels_last: Literal["auto", "on", "off"] = "auto"
    """Memory format of images and convolutions. `auto`: on where it is known to be faster."""
    onednn: Literal["auto", "on", "off"] = "auto"
    """oneDNN's convolutions in training on a CPU. `auto`: on, but for passes so small that its calls cost more than
    the work, unless the whole step is compiled."""
    compile: Literal["off", "model"] = "off"
    """`model`: compile the network with `torch.compile`. On a CPU this needs a C++ compiler."""
    compile_mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = "default"
    """The `mode` of `torch.compile`. `reduce-overhead`: CUDA graphs, for small steps on a GPU. `max-autotune`: time
    several kernels and take the fastest; compiling takes longer."""
    max_grad_norm: Above | None = None
    """Scale gradients down to this 2-norm over all weights."""
    label_smoothing: Fraction = 0.0
    """Share of the target that is spread evenly over all classes."""
    ema_decay: Fraction | None = None
    """Keep an exponential moving average of the weights, with this decay a step, and evaluate it in their place."""
    sync_batchnorm: bool = False
    """Batch normalisation over all ranks of a step; torch has it for GPUs only."""


class Eval(Section):
    """When held-out data are evaluated."""

    every_epochs: Annotated[int, Field(ge=0)] = 1
    """Evaluate after every this many epochs; 0: at the end only."""


class Checkpoint(Section):
    """When the state is saved, and how much of it is kept."""

    every_steps: Positive | None = None
    """Steps between two checkpoints. Default: once an epoch."""
    keep_last: Positive = 3
    """How many of the newest checkpoints stay."""
    keep_best: bool = True
    """Save and keep the checkpoint of the best accuracy, under the link `best`."""
    asynchronous: bool = True
    """Write checkpoints in a thread: training waits for a copy of the tensors only."""


class Distributed(Section):
    """How ranks talk, and what each takes of the machine."""

    backend: Literal["auto", "nccl", "gloo"] = "auto"
    """`nccl` trains on GPUs, `gloo` on CPU. `auto`: nccl where there is a GPU."""
    shared_memory: Literal["auto", "off"] = "auto"
    """Let the ranks of one machine add up their gradients in memory that they share, in place of Gloo. `auto`: where
    all ranks are on one machine, on CPU, and the system lets them. The ranks are added in an order that depends on
    their numbers only."""
    compression: Literal["none", "bf16"] = "none"
    """What gradients are while they go between ranks through Gloo or NCCL. `bf16`: half the bytes, with 8 bits of
    mantissa; losses and weights keep theirs. In shared memory, where it would save nothing, gradients stay as they
    are."""
    timeout_minutes: Annotated[float, Field(gt=0, le=10**6)] = 30.0
    """How long a rank waits for the others in one operation."""
    threads: Auto | Annotated[int, Field(ge=1, le=4096)] = "auto"
    """Threads per rank. `auto`: the cores this process may use, divided by the ranks on this machine; 1 where
    `run.reproducible` is `bitwise`, because the number must not depend on that of the ranks."""
    allocator: Literal["auto", "system"] = "auto"
    """`auto`: memory that a step has freed is kept for the next, where glibc would hand it back to the system and take
    it anew, a page at a time. Another allocator in `LD_PRELOAD`, or a glibc tuned by variables, is left alone."""
    binding: Literal["off"] = "off"
    """Binding of ranks to the cores near their memory or GPU. `off` is the only value in this version."""
    shards: Annotated[int, Field(ge=1, le=2**16)] | None = None
    """`run.reproducible: bitwise` cuts every global batch into this many virtual ranks, a power of two; each rank
    computes an equal number of them one after another. Default: 8 where it is needed."""
    stall_minutes: Annotated[float, Field(gt=0, le=10**6)] | None = 10.0
    """End the run, with the stacks of all ranks, when a rank has made no progress for this long. null: never."""


class Log(Section):
    """What is written about the run while it goes on."""

    every_steps: Positive = 50
    """Steps between two lines of kind `train` in `metrics.jsonl`."""
    tensorboard: bool = True
    """Write curves for TensorBoard to `tb/`."""
    progress: Literal["auto", "on", "off"] = "auto"
    """A progress bar. `auto`: on a terminal only."""
    ledger: bool = True
    """Write to `ledger.jsonl` what `dist-train diff` compares: of each step the hash of its samples, the bits of the
    loss and of the gradient's norm, and the learning rate."""
    weights_every_steps: Positive = 100
    """Steps between two hashes of the weights in `ledger.jsonl`."""


AnyData = Annotated[StoredData | SyntheticData, Discriminator("name")]
AnyModel = Annotated[SmallNet | CifarTutorial | ResNet18 | TorchvisionModel, Discriminator("name")]
AnyOptim = Annotated[
    SGD | Adam | AdamW | Adagrad | RMSprop | Adadelta | Adamax | NAdam | RAdam | ASGD | Rprop, Discriminator("name")
]


class Config(Section):
    """All settings of a run."""

    run: Run
    data: AnyData
    model: AnyModel
    optim: AnyOptim
    train: Train = Train()
    eval: Eval = Eval()
    checkpoint: Checkpoint = Checkpoint()
    distributed: Distributed = Distributed()
    log: Log = Log()

    @property
    def shards(self) -> int | None:
        """Virtual ranks of a global batch, None where every rank is one: `distributed.shards` with its default."""
        return (self.distributed.shards or 8) if self.run.reproducible == "bitwise" else None


KNOWN_CLASSES = {"mnist": 10, "fashion_mnist": 10, "kmnist": 10, "cifar10": 10, "cifar100": 100, "digits": 10}
SCHEDULE_SETTINGS = {
    "step_size": ("step",),
    "milestones": ("multistep",),
    "gamma": ("step", "multistep"),
    "eta_min": ("cosine",),
    "pct_start": ("onecycle",),
    "div_factor": ("onecycle",),
    "final_div_factor": ("onecycle",),
}


class Contradiction(NamedTuple):
    """Two settings that are fine alone and not together: the key to mend, and what is wrong with it."""

    key: str
    message: str


def contradictions(config: Config) -> Iterator[Contradiction]:
    """What no check of a single setting can see, without opening any data."""
    yield from _schedule_contradictions(config.optim)
    yield from _class_contradictions(config)
    yield from _normalize_contradictions(config.data)
    optim = config.optim
    if isinstance(optim, SGD) and optim.nesterov and (optim.momentum == 0 or optim.dampening != 0):
        yield Contradiction("optim.nesterov", "needs optim.momentum above 0 and optim.dampening 0")
    yield from _shard_contradictions(config)
    if config.train.compile_mode != "default" and config.train.compile == "off":
        yield Contradiction(
            "train.compile_mode", f"is {config.train.compile_mode}, but train.compile is off: set train.compile=model"
        )
    if config.train.sync_batchnorm and config.distributed.backend == "gloo":
        yield Contradiction(
            "train.sync_batchnorm", "is on, but torch has it for GPUs only, and distributed.backend is gloo"
        )


def _shard_contradictions(config: Config) -> Iterator[Contradiction]:
    shards = config.distributed.shards
    if config.run.reproducible == "elastic" and shards is not None:
        yield Contradiction(
            "distributed.shards", f"is {shards}, but belongs to run.reproducible bitwise, which is elastic"
        )
    if shards is not None and shards & (shards - 1):
        yield Contradiction("distributed.shards", f"is {shards}; it must be a power of two, such as 8")
    if config.run.reproducible == "bitwise" and config.train.sync_batchnorm:
        yield Contradiction(
            "train.sync_batchnorm", "is on, but run.reproducible bitwise has statistics of a shard's own samples only"
        )
    if config.run.reproducible == "bitwise" and config.distributed.compression != "none":
        yield Contradiction(
            "distributed.compression",
            f"is {config.distributed.compression}, but with run.reproducible bitwise no rank may round what it sends",
        )


def _schedule_contradictions(optim: Optim) -> Iterator[Contradiction]:
    for key, schedules in SCHEDULE_SETTINGS.items():
        is_default = getattr(optim, key) == Optim.model_fields[key].default
        if not is_default and optim.schedule not in schedules:
            belongs = " or ".join(schedules)
            yield Contradiction(
                f"optim.{key}", f"belongs to optim.schedule {belongs}, but the schedule is {optim.schedule}"
            )
    if optim.schedule == "multistep":
        if not optim.milestones:
            yield Contradiction("optim.milestones", "is empty; optim.schedule multistep needs at least one epoch")
        if list(optim.milestones) != sorted(set(optim.milestones)):
            yield Contradiction("optim.milestones", f"is {list(optim.milestones)}; the epochs must rise")
    if optim.schedule == "onecycle" and optim.warmup_epochs > 0:
        yield Contradiction(
            "optim.warmup_epochs", "is set, but optim.schedule onecycle has a rise of its own: use optim.pct_start"
        )


def _class_contradictions(config: Config) -> Iterator[Contradiction]:
    data, wanted = config.data, config.model.num_classes
    there = data.num_classes if isinstance(data, SyntheticData) else KNOWN_CLASSES.get(data.name)
    if wanted is not None and there is not None and wanted != there:
        yield Contradiction(
            "model.num_classes", f"is {wanted}, but data.name {data.name} has {there} classes; leave it out"
        )


def _normalize_contradictions(data: Data) -> Iterator[Contradiction]:
    if isinstance(data.normalize, Normalize) and len(data.normalize.mean) != len(data.normalize.std):
        yield Contradiction(
            "data.normalize",
            f"has {len(data.normalize.mean)} numbers in mean and {len(data.normalize.std)} in std; "
            "both need one a channel",
        )


def sections(annotation: Any) -> tuple[type[Section], ...]:
    """The classes that a section may be of: `Config.model_fields["optim"].annotation` has one an optimizer."""
    if isinstance(annotation, type):
        return (annotation,) if issubclass(annotation, Section) else ()
    return tuple(found for part in get_args(annotation) for found in sections(part))


def keys_of(classes: tuple[type[Section], ...], prefix: str = "") -> list[str]:
    """Every dotted key that some class among `classes` takes, in the order of their definition."""
    keys: dict[str, None] = {}
    for section in classes:
        for name, field in section.model_fields.items():
            inner = sections(field.annotation)
            if not inner or prefix:
                keys[f"{prefix}{name}"] = None
            keys.update(dict.fromkeys(keys_of(inner, f"{prefix}{name}.")))
    return list(keys)


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys and their values; sequences as lists, as a checkpoint and YAML have them."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat
