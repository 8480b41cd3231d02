"""Decide every setting that is `auto`, once per run.

A checkpoint keeps the decisions and a resumed run takes them over: another precision, memory format or number of
threads sums in another order, and the run would no longer end with the same bits.
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dist_train.distributed.world import World
from dist_train.errors import CheckpointError, ConfigError
from dist_train.execution.deterministic import use_deterministic_kernels
from dist_train.execution.gpu import configure_gpu
from dist_train.nest import Nest, move_inputs
from dist_train.settings.schema import Distributed, Train
from dist_train.system.cpu import count_cores
from dist_train.system.plural import format_count

# Below both, torch's own convolutions on a CPU are faster than oneDNN's, whose calls cost more. From 16 samples on
# torch gives its own to NNPACK, which is slower than either. Measured on two cores with AVX-512, five networks.
_SMALL_WORK = 4_000_000
_FEW_SAMPLES = 16
_REMOVED = {"steps_together"}
"""Decisions of earlier versions that no longer exist."""


@dataclass(frozen=True)
class Convolutions:
    """The cost of the convolutions in one forward pass of a network."""

    work: int
    """Multiplications of the largest convolution for one image; 0 without convolutions."""
    samples: int
    """Most images that any rank takes in a pass."""
    samples_of_one: int
    """Most images in a pass if one rank took all: the precision must not depend on the number of ranks."""

    @property
    def are_small(self) -> bool:
        return self._are_small(self.samples)

    @property
    def are_small_on_one_rank(self) -> bool:
        return self._are_small(self.samples_of_one)

    def _are_small(self, samples: int) -> bool:
        return samples < _FEW_SAMPLES and 0 < self.work * samples < _SMALL_WORK


@dataclass(frozen=True)
class AutoSettings:
    """`train.precision`, `train.channels_last`, `train.onednn`, `train.sync_batchnorm`, `distributed.threads` and
    `distributed.shared_memory`, decided."""

    precision: str
    channels_last: bool
    threads: int
    local_size: int
    """Ranks on a machine, for which `threads` and `shared_memory` were decided."""
    onednn: bool = True
    """Whether oneDNN computes the training's convolutions on a CPU; evaluations always use it."""
    shared_memory: bool = False
    """Whether gradients are added up in memory that the ranks share; older checkpoints do not have it."""
    sync_batchnorm: bool = False
    """Whether batch normalisation counts the samples of all ranks; in older checkpoints `auto` was `false`."""

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """The dtype of the arithmetic inside autocast, None without autocast."""
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "AutoSettings":
        """Read the decisions of a checkpoint.

        Raises:
            CheckpointError: it has one that this version does not know.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(content.keys() - known - _REMOVED):
            raise CheckpointError(
                f"the checkpoint was written by a newer version of dist-train, which chose {', '.join(unknown)} too; "
                "install that version"
            )
        return cls(**{name: value for name, value in content.items() if name in known})

    def __str__(self) -> str:
        kinds = (("channels_last", self.channels_last), ("onednn", self.onednn))
        formats = ", ".join(f"{name} {'on' if chosen else 'off'}" for name, chosen in kinds)
        return f"{self.precision}, {formats}, {format_count(self.threads, 'thread')} a rank"


def decide(
    train: Train,
    distributed: Distributed,
    world: World,
    convolutions: Convolutions,
    stored: dict[str, Any] | None,
    shards: int | None = None,
    can_share: bool = False,
) -> AutoSettings:
    """Decide every `auto`; decisions in `stored`, those of the checkpoint, are kept.

    Threads are decided again only if the number of ranks on a machine has changed: the old number would leave cores
    idle or oversubscribe them, and another number of ranks sums in another order anyway. With `shards` it does not, and
    one thread is all that every number of ranks can have. Shared memory is decided in the same way, and with `shards`
    it changes no bits.

    Args:
        convolutions: their cost in the largest pass of any rank. Nothing is timed: two starts of the same training
            must decide alike.
        can_share: whether the ranks have memory that they share.

    Raises:
        ConfigError: `train.precision` is tf32, and this rank's device has none.
        CheckpointError: the checkpoint was trained in another precision, or a newer version wrote it.
    """
    before = AutoSettings.from_dict(stored) if stored else None
    is_small = world.device.type == "cpu" and convolutions.are_small
    precision = _decide_precision(train, world.device, convolutions, before)
    prefers_torch = is_small and precision == "fp32" and train.channels_last != "on"
    onednn = _take_or_keep(train.onednn, before.onednn if before else None, not prefers_torch)
    gains = convolutions.work > 0 and _gains_by_channels_last(precision, onednn, world)
    channels_last = _take_or_keep(train.channels_last, before.channels_last if before else None, gains)
    shared_memory = can_share
    if before and before.local_size == world.local_size and not shards:
        shared_memory = can_share and before.shared_memory
    threads = _decide_threads(distributed, world, before, shards)
    sync_batchnorm = _decide_sync_batchnorm(train, before, shards)
    return AutoSettings(precision, channels_last, threads, world.local_size, onednn, shared_memory, sync_batchnorm)


def _decide_precision(
    train: Train, device: torch.device, convolutions: Convolutions, before: AutoSettings | None
) -> str:
    """Raises ConfigError and CheckpointError as `decide` does."""
    precision: str
    if train.precision is None:
        fp32 = "tf32" if _has_tf32(device) else "fp32"
        # A GPU's run may continue where there is no TF32, as before it was the default.
        precision = fp32 if before is None or before.precision == "tf32" else before.precision
    elif train.precision == "auto":
        is_small = device.type == "cpu" and convolutions.are_small_on_one_rank
        best = "bf16" if _is_made_for_bf16(device) and not is_small else "fp32"
        precision = before.precision if before else best
    else:
        precision = train.precision
    if before and train.precision is not None and before.precision != precision:
        raise CheckpointError(
            f"train.precision is {precision}, but the checkpoint was trained in {before.precision}. Set it back, or "
            "start again with run.resume=never."
        )
    _check_tf32(precision, device)
    return precision


def _take_or_keep(setting: Literal["auto", "on", "off"], before: bool | None, best: bool) -> bool:
    """Return the setting if it is not `auto`; else the decision of before, or the best."""
    if setting != "auto":
        return setting == "on"
    return best if before is None else before


def _decide_threads(distributed: Distributed, world: World, before: AutoSettings | None, shards: int | None) -> int:
    if distributed.threads != "auto":
        return distributed.threads
    if before and (shards or before.local_size == world.local_size):
        return before.threads
    return 1 if shards else max(1, count_cores() // world.local_size)


def _decide_sync_batchnorm(train: Train, before: AutoSettings | None, shards: int | None) -> bool:
    """`auto` is on where possible: not with shards, micro-batches, which have their own statistics, or compilation."""
    if train.sync_batchnorm != "auto":
        return train.sync_batchnorm
    is_possible = shards is None and train.micro_batch is None and train.compile == "off"
    return is_possible and (before is None or before.sync_batchnorm)


def measure_convolutions(network: nn.Module, example: Nest) -> list[int]:
    """Count the multiplications of each convolution of `network` for one sample.

    Args:
        example: the inputs of a sample.
    """
    found: list[int] = []

    def record(layer: nn.Conv2d, _: object, output: Tensor) -> None:
        found.append(output[0].numel() * layer.weight[0].numel())

    hooks = [layer.register_forward_hook(record) for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    was_training = network.training
    network.eval()  # nothing random happens, and no statistics change
    with torch.no_grad():
        network(move_inputs(example, next(network.parameters()).device))
    network.train(was_training)
    for hook in hooks:
        hook.remove()
    return found


def apply_to_process(auto_settings: AutoSettings, deterministic: bool, device: torch.device) -> None:
    """Set what torch keeps per process: threads, oneDNN, deterministic mode, and how a GPU computes.

    Raises:
        ConfigError: as `configure_gpu`.
    """
    torch.set_num_threads(auto_settings.threads)
    use_onednn(auto_settings.onednn)
    if device.type == "cuda":
        configure_gpu(auto_settings.precision, deterministic=deterministic)
    if deterministic:
        use_deterministic_kernels()


def use_onednn(wanted: bool) -> None:
    """Let oneDNN compute this process's convolutions on a CPU, or torch itself."""
    torch.backends.mkldnn.enabled = wanted  # type: ignore[assignment]


def _check_tf32(precision: str, device: torch.device) -> None:
    if precision == "tf32" and not _has_tf32(device):
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
        raise ConfigError(
            "train.precision is tf32, which GPUs of compute capability 8.0 and newer have, and this rank is on "
            f"{name}; use auto, fp32 or bf16"
        )


def _has_tf32(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def _is_made_for_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return _has_tf32(device)  # both came with Ampere
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    return "amx_bf16" in flags or "avx512_bf16" in flags


def _gains_by_channels_last(precision: str, onednn: bool, world: World) -> bool:
    """Whether channels_last is faster: for oneDNN in every precision, for cuDNN where it uses tensor cores."""
    return onednn if world.device.type == "cpu" else precision != "fp32"
