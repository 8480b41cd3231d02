"""Find settings that are valid alone but contradict each other."""

from collections.abc import Iterator

from dist_train.settings.schema import (
    KNOWN_CLASSES,
    AnyData,
    Config,
    ImageData,
    ImageModel,
    Normalize,
    RowData,
    SyntheticData,
    TableData,
)
from dist_train.settings.schema.optim import SCHEDULE_SETTINGS, SGD, Muon, Optim, RestSGD
from dist_train.settings.schema.section import Contradiction


def find_contradictions(config: Config) -> Iterator[Contradiction]:
    """Find settings that are valid alone but contradict each other, without opening any data."""
    yield from _schedule_contradictions(config.optim)
    yield from _nesterov_contradictions(config.optim)
    yield from _weights_contradictions(config)
    yield from _evaluation_contradictions(config)
    yield from _class_contradictions(config)
    yield from _normalize_contradictions(config.data)
    yield from _row_contradictions(config)
    yield from _shard_contradictions(config)
    if config.train.compile_mode != "default" and config.train.compile == "off":
        yield Contradiction(
            "train.compile_mode", f"is {config.train.compile_mode}, but train.compile is off: set train.compile=model"
        )
    if config.train.sync_batchnorm is True and config.train.micro_batch is not None:
        yield Contradiction(
            "train.sync_batchnorm",
            "is on, but with train.micro_batch each pass has statistics of its own: leave one out",
        )
    if config.train.sync_batchnorm is True and config.train.compile != "off":
        yield Contradiction("train.sync_batchnorm", "is on, but a compiled network sends no messages: leave one out")


def _weights_contradictions(config: Config) -> Iterator[Contradiction]:
    if config.run.init is not None and config.model.weights is not None:
        yield Contradiction(
            "run.init", "is set, and model.weights too, and both give the weights of step 0: set model.weights=null"
        )
    if config.run.init is not None and config.run.resume not in ("auto", "never"):
        yield Contradiction("run.init", "is set, and run.resume leads to a checkpoint to start from: leave one out")
    if config.model.unfreeze and config.model.freeze is None:
        yield Contradiction("model.unfreeze", "is set, but nothing is frozen: set model.freeze")


def _shard_contradictions(config: Config) -> Iterator[Contradiction]:
    shards = config.distributed.shards
    if config.run.reproducible == "elastic" and shards is not None:
        yield Contradiction(
            "distributed.shards", f"is {shards}, but is only used with run.reproducible=bitwise, and that is elastic"
        )
    if shards is not None and shards & (shards - 1):
        yield Contradiction("distributed.shards", f"is {shards}; it must be a power of two, such as 8")
    if shards is not None and shards > max(8, config.data.global_batch):
        batch = config.data.global_batch
        yield Contradiction(
            "distributed.shards",
            f"is {shards}, more than the {batch} samples of data.global_batch: a shard without a "
            f"sample takes as long as one with; choose at most {max(8, 2 ** (batch.bit_length() - 1))}",
        )
    if config.run.reproducible == "bitwise" and config.train.sync_batchnorm is True:
        yield Contradiction(
            "train.sync_batchnorm",
            "is on, but run.reproducible=bitwise computes statistics within each shard",
        )
    if config.run.reproducible == "bitwise" and config.distributed.compression != "none":
        yield Contradiction(
            "distributed.compression",
            f"is {config.distributed.compression}, but with run.reproducible=bitwise no rank may round what it sends",
        )


def _evaluation_contradictions(config: Config) -> Iterator[Contradiction]:
    """Find settings that follow from evaluations during training, where there are none."""
    if config.eval.every_epochs or config.eval.every_steps:
        return
    for key, section in (
        ("optim.plateau", config.optim.plateau),
        ("train.early_stopping", config.train.early_stopping),
    ):
        if section is not None:
            yield Contradiction(key, "needs evaluations during training, but eval.every_epochs is 0: set it to 1")


def _class_contradictions(config: Config) -> Iterator[Contradiction]:
    data, wanted = config.data, config.model.num_classes if isinstance(config.model, ImageModel) else None
    there = data.num_classes if isinstance(data, SyntheticData) else KNOWN_CLASSES.get(data.name)
    if wanted is not None and there is not None and wanted != there:
        yield Contradiction(
            "model.num_classes", f"is {wanted}, but data.name {data.name} has {there} classes; leave it out"
        )


def _normalize_contradictions(data: AnyData) -> Iterator[Contradiction]:
    if (
        isinstance(data, ImageData)
        and isinstance(data.normalize, Normalize)
        and len(data.normalize.mean) != len(data.normalize.std)
    ):
        yield Contradiction(
            "data.normalize",
            f"has {len(data.normalize.mean)} numbers in mean and {len(data.normalize.std)} in std; "
            "both need one per channel",
        )


def _row_contradictions(config: Config) -> Iterator[Contradiction]:
    data = config.data
    if not isinstance(data, RowData):
        return
    if config.task in ("classification", "multilabel"):
        yield Contradiction(
            "task", f"is {config.task}, but data.name {data.name} has a number to predict: set regression"
        )
    if data.validation == "split":
        yield Contradiction(
            "data.validation", f"is split, but data.name {data.name} has no such split: give a fraction of train"
        )
    if isinstance(data, TableData) and (data.file is None) == (data.sklearn is None):
        both = "are both set" if data.file else "are both missing"
        yield Contradiction("data.file", f"and data.sklearn {both}; set one of them, data.file=houses.csv or "
                            "data.sklearn=diabetes")  # fmt: skip


def _schedule_contradictions(optim: Optim) -> Iterator[Contradiction]:
    used = {optim.schedule, *(group.schedule for group in optim.groups if group.schedule)}
    for key, schedules in SCHEDULE_SETTINGS.items():
        is_default = getattr(optim, key) == Optim.model_fields[key].default
        if not is_default and not used & set(schedules):
            belongs = " or ".join(schedules)
            yield Contradiction(
                f"optim.{key}", f"is only used with optim.schedule {belongs}, but the schedule is {optim.schedule}"
            )
    if "multistep" in used and not optim.milestones:
        yield Contradiction("optim.milestones", "is empty; optim.schedule multistep needs at least one epoch")
    if list(optim.milestones) != sorted(set(optim.milestones)):
        yield Contradiction("optim.milestones", f"is {list(optim.milestones)}; the epochs must increase")
    if used == {"onecycle"} and optim.warmup_epochs > 0:
        yield Contradiction(
            "optim.warmup_epochs", "is set, but optim.schedule onecycle has its own warmup: use optim.pct_start"
        )
    if optim.restart_factor > 1 and optim.restart_epochs is None:
        yield Contradiction("optim.restart_factor", "is set, but optim.restart_epochs is not: set it too")


def _nesterov_contradictions(optim: Optim) -> Iterator[Contradiction]:
    """Find a momentum of Nesterov's kind that SGD does not have."""
    if isinstance(optim, SGD):
        settings: tuple[tuple[str, SGD | RestSGD], ...] = (("optim", optim),)
    elif isinstance(optim, Muon) and isinstance(optim.rest, RestSGD):
        settings = (("optim.rest", optim.rest),)
    else:
        return
    for key, sgd in settings:
        if sgd.nesterov and (sgd.momentum == 0 or sgd.dampening != 0):
            yield Contradiction(f"{key}.nesterov", f"needs {key}.momentum above 0 and {key}.dampening 0")
