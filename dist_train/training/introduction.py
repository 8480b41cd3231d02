"""Describe a run before its first step: on the terminal, and in `env.json`."""

import logging
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from dist_train import __version__
from dist_train.data import Dataset
from dist_train.distributed.batch_norm import has_batch_norm
from dist_train.distributed.world import World
from dist_train.execution.auto_settings import AutoSettings
from dist_train.execution.gpu import describe_versions
from dist_train.settings.schedule import Schedule
from dist_train.settings.schema import Config
from dist_train.system.plural import format_count
from dist_train.training.state import TrainState

_log = logging.getLogger(__name__)


def print_introduction(
    config: Config, dataset: Dataset, state: TrainState, schedule: Schedule, world: World, allocator: str
) -> None:
    """Print the network, the data, the ranks, and the values chosen for settings that are `auto`."""
    parameters = sum(parameter.numel() for parameter in state.network.parameters())
    frozen = sum(parameter.numel() for parameter in state.frozen if not parameter.requires_grad)
    size = format_count(parameters, "parameter") + (f", {frozen:,} of them frozen" if frozen else "")
    _log.info(
        "%s: %s (%s) on %s: %s %s, %d classes",
        config.run.name, config.model.name, size, config.data.name,
        format_count(schedule.num_train, "training sample"),
        dataset.identity.structure or f"of {'x'.join(map(str, dataset.shape or ()))}", len(dataset.classes),
    )  # fmt: skip
    _log.info(
        "%s on %s, global batch %d, at most %s per rank and pass; %s",
        format_count(world.size, "rank"), world.device.type, schedule.global_batch,
        format_count(schedule.largest_pass(world.size), "sample"), state.auto_settings,
    )  # fmt: skip
    if world.size > 1:
        _log.info("gradients go between ranks through %s", _describe_reduction(config, state.auto_settings, world))
        if not config.shards and not state.auto_settings.sync_batchnorm and has_batch_norm(state.network):
            _log.info(
                "batch normalisation is by the samples of each rank, so the loss depends on the number of ranks; "
                "train.sync_batchnorm says how it would not"
            )
    _log.info("allocator: %s", allocator)
    start = "continues at" if state.step else "starts at"
    _log.info("%s %s; %d an epoch", start, describe_progress(state.step, schedule), schedule.steps_per_epoch)


def describe_progress(step: int, schedule: Schedule) -> str:
    """`step 3 of 10`; a run may be past its end, if the end was moved to an earlier step."""
    is_past = step > schedule.total_steps
    end = f", past the {schedule.total_steps} asked for" if is_past else f" of {schedule.total_steps}"
    return f"step {step}{end}"


def _describe_reduction(config: Config, auto_settings: AutoSettings, world: World) -> str:
    """How gradients go between ranks, and in which type."""
    compression = config.distributed.compression
    if not auto_settings.shared_memory:
        return str(world.backend) if compression == "none" else f"{world.backend}, as {compression}"
    return "shared memory" if compression == "none" else f"shared memory, where {compression} would save nothing"


def describe_environment(world: World, state: TrainState, allocator: str) -> dict[str, Any]:
    """Versions and devices; no environment variables, since they may hold secrets."""
    packages = ("torchvision", "numpy", "pillow", "simplejpeg", "pydantic", "tensorboard")
    return {
        "dist_train": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {"torch": str(torch.__version__), **{name: _find_version(name) for name in packages}},
        "cuda": torch.version.cuda,
        "device": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "cpu",
        **describe_versions(world.device),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "backend": world.backend,
        "world_size": world.size,
        "choices": state.auto_settings.to_dict(),
        "host": {"allocator": allocator},
    }


def _find_version(package: str) -> str | None:
    """The version of a package, None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
