"""All settings: names, types, defaults, documentation and checks, one class per section.

The docstring under a field is its documentation: `python -m dist_train --settings` prints it. Nothing here imports
torch, so that a wrong key is reported in a fraction of a second, also on a login node. A part of the program receives
its own section only, as in `build_optimizer(config.optim, ...)`.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from dist_train.settings.schema.data import (
    KNOWN_CLASSES,
    AnyData,
    Augment,
    Data,
    ImageData,
    ImageFolderData,
    LineData,
    Noise,
    Normalize,
    OwnAugment,
    OwnData,
    RowData,
    StoredData,
    SyntheticData,
    TableData,
)
from dist_train.settings.schema.model import (
    MLP,
    AnyModel,
    CifarTutorial,
    ImageModel,
    Model,
    OwnModel,
    ResNet18,
    SmallNet,
    TimmModel,
    TorchvisionModel,
    TorchvisionName,
)
from dist_train.settings.schema.optim import AnyOptim
from dist_train.settings.schema.section import (
    NO_ARGUMENTS,
    Arguments,
    Auto,
    FileName,
    Fraction,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Reference,
    Section,
    Words,
    section_classes,
)

__all__ = [
    "AnyData",
    "AnyModel",
    "Augment",
    "Checkpoint",
    "CifarTutorial",
    "Config",
    "Data",
    "Distributed",
    "EarlyStopping",
    "Eval",
    "ImageData",
    "ImageFolderData",
    "ImageModel",
    "KNOWN_CLASSES",
    "LineData",
    "Log",
    "Loss",
    "LossName",
    "MLP",
    "Model",
    "Noise",
    "Normalize",
    "OutputField",
    "OwnAugment",
    "OwnCallback",
    "OwnData",
    "OwnModel",
    "ResNet18",
    "RowData",
    "Run",
    "SmallNet",
    "StoredData",
    "SyntheticData",
    "TableData",
    "TimmModel",
    "TorchvisionModel",
    "TorchvisionName",
    "Train",
    "flatten",
    "list_keys",
]


class Run(Section):
    """Name, directory, seed, and how a run starts."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
    """Name of the run. Default: the name of the settings file without its extension."""
    dir: FileName
    """Directory for all files of the run. In this and every other path `~` and `$NAME` are expanded. Default:
    `runs/<name>`."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of all random numbers: initial weights, sample order, augmentation, dropout, the validation split."""
    resume: FileName = "auto"
    """`auto`: continue from the newest checkpoint in `run.dir`, if there is one. `never`: start from step 0, and
    rename an existing directory to `<dir>.old-1`. A path: start from this checkpoint, or from the newest one of this
    run; once the new run has checkpoints of its own, it continues from those."""
    init: FileName | None = None
    """Path of the weights of step 0, in place of `model.weights`: the directory of another run, one of its checkpoints,
    or a file of weights. Data, optimizer and batch may be others. The average of `train.ema_decay` is `average.pt` in a
    checkpoint. A run that has checkpoints of its own continues from those."""
    reproducible: Literal["elastic", "bitwise"] = "elastic"
    """What stays equal when the number of ranks changes. `elastic`: samples, order, augmentation and learning rate;
    losses agree up to float rounding. `bitwise`: every bit of the weights too, on the same kind of hardware, for any
    number of ranks that divides `distributed.shards`; this is slower."""
    time_limit_minutes: Annotated[float, Field(gt=0, le=10**6)] | None = None
    """Minutes after the start of the launcher when the run finishes its step, saves and stops with exit code 75.
    Default: no limit."""
    deterministic: bool = False
    """Use only deterministic kernels (`torch.use_deterministic_algorithms`) and sums of NCCL in a fixed order; a
    network for which torch has no such kernels is refused. On CPU the supplied models are deterministic without it. On
    a GPU a resumed run ends with the same bits only with this or `run.reproducible: bitwise`; it costs speed."""


OutputField = Annotated[str, Field(pattern=r"^output\.\w+$"), Words("a field of the network's output, output.loss")]
LossName = Literal["cross_entropy", "mse", "mae", "huber", "bce_with_logits", "nll", "half_sse"]


class Loss(Section):
    """The loss, which training minimises."""

    name: LossName | OutputField | Reference | None = None
    """The loss, or your own `f(output, target)` by its reference, which returns a mean or one value a sample. Default:
    that of the task: `cross_entropy`, `mse` or `bce_with_logits`. `half_sse` is half the sum of squared errors over
    the whole batch, which is not divided by its samples. `output.loss`: the network has computed it, and this is the
    field of its output."""
    args: Arguments = NO_ARGUMENTS
    """Its arguments, such as `label_smoothing` of `cross_entropy`, by their names in torch."""
    output: Annotated[str, Field(min_length=1)] | Annotated[int, Field(ge=0)] | None = None
    """The field of the network's output that the loss and the metrics get: a key, an attribute, or a place in a tuple.
    Default: the whole output."""


class EarlyStopping(Section):
    """End a run when its evaluations no longer get better."""

    patience: PositiveInt
    """Evaluations during training, one after the other, without improvement that end the run."""
    min_delta: NonNegativeFloat = 0.0
    """Smallest change that is an improvement."""


class Train(Section):
    """Length, precision, compilation, and what is done to gradients and weights."""

    epochs: PositiveInt | None = None
    """Passes over the training split. Default: 10 if `max_steps` is not set either."""
    max_steps: PositiveInt | None = None
    """Optimizer steps after which the run ends, if `epochs` does not end it before."""
    overfit_batches: PositiveInt | None = None
    """Train only on the samples of the first batches of the data set, this many, the same in each epoch. A network that
    can't learn a single batch by heart has a fault. Default: all."""
    early_stopping: EarlyStopping | None = None
    """End the run early, when the evaluations during training no longer get better. Default: never."""
    micro_batch: PositiveInt | None = None
    """Largest number of samples per rank in one backward pass; larger batches accumulate gradients. Default: no
    limit."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] | None = None
    """Arithmetic inside autocast; weights stay fp32. `auto`: bf16 on hardware made for it, except for convolutions
    too small to gain from it, else fp32. `tf32`: fp32 with 10 bits of mantissa in matrix products and convolutions,
    on GPUs of compute capability 8.0 and newer. `fp32`: all 23 bits, on GPUs too. Default: tf32 on such GPUs, as in
    plain PyTorch's convolutions, else fp32."""
    channels_last: Literal["auto", "on", "off"] = "auto"
    """Memory format of images and convolutions. `auto`: on where it is known to be faster."""
    onednn: Literal["auto", "on", "off"] = "auto"
    """oneDNN's convolutions in training on a CPU. `auto`: on, except for passes so small that its calls cost more
    than the work."""
    compile: Literal["off", "model"] = "off"
    """`model`: compile the network with `torch.compile`. This needs a compiler: for C++ on a CPU, for C on a GPU."""
    compile_mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = "default"
    """The `mode` of `torch.compile`. `reduce-overhead`: CUDA graphs, for small steps on a GPU. `max-autotune`: time
    several kernels and take the fastest; compiling takes longer."""
    max_grad_norm: PositiveFloat | None = None
    """Scale gradients down to this 2-norm over all parameters."""
    ema_decay: Fraction | None = None
    """Keep an exponential moving average of the weights with this decay per step, and evaluate it instead of them."""
    sync_batchnorm: Auto | bool = "auto"
    """Batch normalisation by the mean and variance over all ranks, so that the loss is the same at any number of ranks.
    It costs two small messages a layer. `false`: those of a rank's own samples, as for a network that skips such layers
    on some ranks only. `auto`: on, but off with `run.reproducible: bitwise`, where each shard has its own, with
    `train.micro_batch`, where each pass has, and with `train.compile`."""


class Eval(Section):
    """When held-out data are evaluated, and how many samples at once."""

    every_epochs: Annotated[int, Field(ge=0, le=10**9)] = 1
    """Epochs between evaluations; 0: only at the end."""
    every_steps: PositiveInt | None = None
    """Steps between evaluations, in place of `every_epochs`. Default: null."""
    batch_size: PositiveInt | None = None
    """Samples in one batch of an evaluation, on one rank; the last has the rest. Batches are cut alike at any number of
    ranks, so that its numbers are the same. Fewer need less memory. Default: 250, of small images on a GPU more; of a
    data set of your own at most `data.global_batch`."""


class Checkpoint(Section):
    """When the state is saved, and which checkpoints are kept."""

    every_steps: PositiveInt | None = None
    """Steps between checkpoints. Default: one epoch."""
    keep_last: PositiveInt = 3
    """Number of newest checkpoints to keep."""
    keep_best: bool = True
    """Also save and keep the checkpoint of the best evaluation, under the link `best`."""
    monitor: Annotated[str, Field(min_length=1)] | None = None
    """The number of an evaluation that selects the best: `loss`, or a metric. Default: `accuracy`, if the task has it,
    else `loss`."""
    mode: Literal["max", "min"] | None = None
    """Whether the best is the largest or the smallest. Default: the smallest loss or error, else the largest."""
    split: Literal["auto", "validation", "test"] = "auto"
    """The split that is evaluated during training and selects the best. `auto`: validation, or test if there is none;
    the run prints a line about that at its start."""
    asynchronous: bool = True
    """Write checkpoints in a thread; training waits only while tensors are copied."""


class OwnCallback(Section):
    """A class of your own whose methods are called during a training."""

    name: Reference
    """The class. It has some of the methods `on_start(run)`, `on_step(run, step)`, `on_evaluate(run, evaluation)`,
    `on_checkpoint(run, path)` and `on_end(run, is_done)`; see `dist_train/training/callbacks.py`. If it has
    `state_dict` and `load_state_dict`, checkpoints hold its state."""
    args: Arguments = NO_ARGUMENTS
    """Arguments of the class."""


class Distributed(Section):
    """Communication between ranks, and each rank's share of the machine."""

    backend: Literal["auto", "nccl", "gloo"] = "auto"
    """`nccl` trains on GPUs, `gloo` on CPU. `auto`: nccl if there is a GPU."""
    shared_memory: Literal["auto", "off"] = "auto"
    """Sum gradients in memory that the ranks share instead of through Gloo. `auto`: if all ranks are on the CPU of
    one machine and the system allows it. The order of the sum depends only on the ranks' numbers."""
    compression: Literal["none", "bf16"] = "none"
    """Type of the gradients while they are sent through Gloo or NCCL. `bf16`: half the bytes, with 8 bits of
    mantissa; losses and weights are not rounded. In shared memory it would save nothing and has no effect."""
    find_unused_parameters: Literal["auto", "on", "off"] = "auto"
    """Whether several ranks look, at each step, which parameters take no part in the loss; those of no rank have no
    gradient, as in one process. `auto`: for a network of your own, which may leave out layers by chance. It costs some
    per cent of a small step."""
    timeout_minutes: Annotated[float, Field(gt=0, le=10**6)] = 30.0
    """Minutes that a rank waits for the others in one operation."""
    threads: Auto | Annotated[int, Field(ge=1, le=4096)] = "auto"
    """Threads per rank, on which bits depend; a run keeps its number. `auto`: the cores available to this process,
    divided by the ranks on this machine. If other programs are busy when a new run starts, their cores are left out,
    but not with `run.deterministic`; 1 if `run.reproducible` is `bitwise`, because the number must not depend on the
    number of ranks."""
    allocator: Literal["auto", "system"] = "auto"
    """`auto`: glibc keeps freed memory for the next step instead of returning it to the system, unless `LD_PRELOAD`
    names another allocator or a variable tunes glibc. `system`: nothing is changed."""
    binding: Literal["auto", "off"] = "auto"
    """`auto`: a rank on a GPU runs on the cores of that GPU's NUMA node, as far as the system tells it and the launcher
    allows them. `off`: on all cores that it may use."""
    shards: Annotated[int, Field(ge=1, le=2**16)] | None = None
    """Virtual ranks into which `run.reproducible: bitwise` splits every global batch, a power of two; each rank
    computes an equal number of them, one after another. Default: 8 if `run.reproducible` is `bitwise`."""
    stall_minutes: Annotated[float, Field(ge=0.01, le=10**6)] | None = 10.0
    """Minutes without progress of a rank after which the run ends, with the stack traces of all ranks. null: never."""


class Log(Section):
    """What is recorded during a run."""

    every_steps: PositiveInt = 50
    """Steps between lines of kind `train` in `metrics.jsonl`."""
    tensorboard: bool = True
    """Write for TensorBoard to `tb/`: curves, samples with predictions, the confusion matrix, the settings and the
    graph of the network."""
    progress: Literal["auto", "on", "off"] = "auto"
    """Show a progress bar. `auto`: if the output is a terminal."""
    ledger: bool = True
    """Write `ledger.jsonl`, which `dist-train diff` compares: for each step a hash of its samples, the bits of the
    loss and of the gradient norm, and the learning rate."""
    weights_every_steps: PositiveInt = 100
    """Steps between hashes of the weights in `ledger.jsonl`."""


class Config(Section):
    """All settings of a run."""

    run: Run
    data: AnyData
    model: AnyModel
    task: Literal["classification", "regression", "multilabel"] | Reference = "classification"
    """What the network learns, which decides its loss and metrics. Or a class of your own by its reference."""
    loss: Loss = Loss()
    metrics: tuple[Annotated[str, Field(min_length=1)], ...] | None = None
    """Metrics of an evaluation: names, or your own `f(output, target)` by its reference, which returns a mean or one
    value a sample, or a torchmetrics object. Classification has `accuracy`, `top5` and the like, `macro_f1`,
    `per_class`, `confusion_matrix`; regression `rmse`, `mae`, `r2`; multilabel `accuracy`, `exact_match`, `macro_f1`,
    `micro_f1`, `per_class`. Default: accuracy; rmse, mae, r2; all but micro_f1."""
    callbacks: tuple[OwnCallback, ...] = ()
    """Classes of your own whose methods are called during a training, such as `[hooks.py:LogSamples]` or `[{name:
    hooks.py:LogSamples, args: {count: 4}}]`."""
    optim: AnyOptim
    train: Train = Train()
    eval: Eval = Eval()
    checkpoint: Checkpoint = Checkpoint()
    distributed: Distributed = Distributed()
    log: Log = Log()

    @property
    def is_deterministic(self) -> bool:
        """Whether torch may use deterministic kernels only."""
        return self.run.deterministic or self.run.reproducible == "bitwise"

    @property
    def shards(self) -> int | None:
        """`distributed.shards` with its default; None if each rank has one shard."""
        return (self.distributed.shards or 8) if self.run.reproducible == "bitwise" else None


def list_keys(classes: tuple[type[Section], ...], prefix: str = "") -> list[str]:
    """Return the dotted keys of all `classes`, in the order of their definition."""
    keys: dict[str, None] = {}
    for section in classes:
        for name, field in section.model_fields.items():
            inner = section_classes(field.annotation)
            if not inner or prefix:
                keys[f"{prefix}{name}"] = None
            keys.update(dict.fromkeys(list_keys(inner, f"{prefix}{name}.")))
    return list(keys)


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted keys and their values, with sequences as lists, as in YAML and in a checkpoint."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat
