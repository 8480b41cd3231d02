"""What the program chooses where a setting says `auto`, once a run.

A checkpoint keeps the choices and a resumed run takes them over: another precision, memory format or number of threads
sums in another order, and the run would no longer end with the same bits.
"""

import copy
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dist_train.distributed.world import World, count_cores
from dist_train.errors import CheckpointError, ConfigError
from dist_train.settings.schema import Distributed, Train

# Below both, torch's own convolutions on a CPU are faster than oneDNN's, whose calls cost more; from 16 samples on
# torch hands its own to NNPACK, which is slower than either. Measured on two cores with AVX-512, five networks.
_SMALL_WORK = 4_000_000
_FEW_SAMPLES = 16
# Of so many steps in one call the calls cost little; a graph of more convolutions takes minutes to compile.
_STEPS_TOGETHER = 8
_FEW_CONVOLUTIONS = 4


@dataclass(frozen=True)
class Convolutions:
    """What there is to compute in one forward pass of a network."""

    work: int
    """Multiplications of the largest convolution for one image; 0 without convolutions."""
    samples: int
    """Most images that any rank takes in a pass."""
    samples_of_one: int
    """Most images in a pass if one rank took all: the precision must not depend on the number of ranks."""
    count: int = 1
    """How many convolutions there are."""
    draws: bool = False
    """Whether the network draws random numbers, each step's from a seed of its own."""

    @property
    def are_small(self) -> bool:
        return self._are_small(self.samples)

    @property
    def are_small_on_one_rank(self) -> bool:
        return self._are_small(self.samples_of_one)

    def _are_small(self, samples: int) -> bool:
        return samples < _FEW_SAMPLES and 0 < self.work * samples < _SMALL_WORK


@dataclass(frozen=True)
class Choices:
    """The settings `train.precision`, `train.channels_last`, `train.onednn`, `distributed.threads` and
    `distributed.shared_memory`, decided; and how many steps a compiled call makes."""

    precision: str
    channels_last: bool
    threads: int
    local_size: int
    """Ranks on a machine, for which `threads` and `shared_memory` were chosen."""
    onednn: bool = True
    """Whether oneDNN computes the training's convolutions on a CPU; evaluations are always oneDNN's."""
    shared_memory: bool = False
    """Whether gradients are added up in memory that the ranks share; no checkpoint of before there was such a choice
    has it."""
    steps_together: int = 1
    """Most steps that are made in one call: with `train.compile: step`, where calls cost as much as the work."""

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """The type of the arithmetic inside autocast, None where there is no autocast."""
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Choices":
        """The choices of a checkpoint.

        Raises:
            CheckpointError: it has one that this version does not know.
        """
        if unknown := sorted(content.keys() - {field.name for field in fields(cls)}):
            raise CheckpointError(
                f"the checkpoint was written by a newer version of dist-train, which chose {', '.join(unknown)} too; "
                "install that version"
            )
        return cls(**content)

    def __str__(self) -> str:
        kinds = (("channels_last", self.channels_last), ("onednn", self.onednn))
        formats = ", ".join(f"{name} {'on' if chosen else 'off'}" for name, chosen in kinds)
        together = f", up to {self.steps_together} steps at a time" if self.steps_together > 1 else ""
        return f"{self.precision}, {formats}, {self.threads} thread(s) a rank{together}"


def choose(
    train: Train,
    distributed: Distributed,
    world: World,
    convolutions: Convolutions,
    stored: dict[str, Any] | None,
    shards: int | None = None,
    can_share: bool = False,
) -> Choices:
    """Decide every `auto`; what `stored`, the choices of the checkpoint, has decided stays decided.

    Threads are decided anew only where the number of ranks on a machine has changed: the old number would then leave
    cores idle or fight over them, and another number of ranks sums in another order anyway. With `shards` it does not,
    and one thread is all that every number of ranks can have. Shared memory is decided upon in the same way, and with
    `shards` it changes no bits.

    Args:
        convolutions: of this network, in the largest pass of any rank. Nothing is ever timed: two starts of the same
            training have to choose the same.
        can_share: whether the ranks have memory that they share.

    Raises:
        ConfigError: `train.precision` is tf32, and this rank's device has none.
        CheckpointError: another precision is asked for than the checkpoint was trained in, or a newer version wrote it.
    """
    before = Choices.from_dict(stored) if stored else None
    is_small = world.device.type == "cpu" and convolutions.are_small
    precision = _precision(train, world.device, convolutions, before)
    is_torchs_own = is_small and precision == "fp32" and train.channels_last != "on" and train.compile != "step"  # type: ignore[comparison-overlap]
    onednn = _decided(train.onednn, before.onednn if before else None, not is_torchs_own)
    gains = convolutions.work > 0 and _gains_by_channels_last(precision, onednn, world)
    channels_last = _decided(train.channels_last, before.channels_last if before else None, gains)
    shared_memory = can_share
    if before and before.local_size == world.local_size and not shards:
        shared_memory = can_share and before.shared_memory
    steps_together = 1
    is_on_cpu = world.device.type == "cpu"
    if is_one_graph(train, precision, world, shards) and is_on_cpu and not convolutions.draws:
        best = _STEPS_TOGETHER if is_small and convolutions.count <= _FEW_CONVOLUTIONS else 1
        steps_together = before.steps_together if before else best
    threads = _threads(distributed, world, before, shards)
    return Choices(precision, channels_last, threads, world.local_size, onednn, shared_memory, steps_together)


def _precision(train: Train, device: torch.device, convolutions: Convolutions, before: Choices | None) -> str:
    """Raises ConfigError and CheckpointError as `choose` does."""
    precision: str = train.precision
    if precision == "auto":
        is_small = device.type == "cpu" and convolutions.are_small_on_one_rank
        best = "bf16" if _made_for_bf16(device) and not is_small else "fp32"
        precision = before.precision if before else best
    if before and before.precision != precision:
        raise CheckpointError(
            f"train.precision is {precision}, but the checkpoint was trained in {before.precision}. Set it back, or "
            "start anew with run.resume=never."
        )
    _check_tf32(precision, device)
    return precision


def _decided(setting: Literal["auto", "on", "off"], before: bool | None, best: bool) -> bool:
    """What is set; of `auto` what it was before, or else what is best."""
    if setting != "auto":
        return setting == "on"
    return best if before is None else before


def is_one_graph(train: Train, precision: str, world: World, shards: int | None) -> bool:
    """Whether the whole step is compiled as one: where ranks meet, or the host decides, inside of it, it can't be."""
    is_divided = world.size > 1 or shards or train.micro_batch is not None or precision == "fp16"
    return train.compile == "step" and not is_divided  # type: ignore[comparison-overlap]


def _threads(distributed: Distributed, world: World, before: Choices | None, shards: int | None) -> int:
    if distributed.threads != "auto":
        return distributed.threads
    if before and (shards or before.local_size == world.local_size):
        return before.threads
    return 1 if shards else max(1, count_cores() // world.local_size)


def convolution_work(network: nn.Module, shape: tuple[int, int, int]) -> list[int]:
    """Multiplications of each of the network's convolutions for one image of `shape`."""
    found: list[int] = []

    def note(layer: nn.Conv2d, _: object, output: Tensor) -> None:
        found.append(output[0].numel() * layer.weight[0].numel())

    hooks = [layer.register_forward_hook(note) for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    was_training = network.training
    network.eval()  # nothing random happens, and no statistics change
    weight = next(network.parameters())
    with torch.no_grad():
        network(torch.zeros(1, *shape, dtype=weight.dtype, device=weight.device))
    network.train(was_training)
    for hook in hooks:
        hook.remove()
    return found


def draws_random_numbers(network: nn.Module, shape: tuple[int, int, int]) -> bool:
    """Whether a pass of training over images of `shape` draws from torch's generator; on a CPU, and undone."""
    probe = copy.deepcopy(network).train()
    weight = next(probe.parameters())
    before = torch.default_generator.get_state()
    with torch.no_grad():
        probe(torch.zeros(2, *shape, dtype=weight.dtype, device=weight.device))  # batch normalisation takes no less
    after = torch.default_generator.get_state()
    torch.default_generator.set_state(before)
    return not torch.equal(before, after)


def apply_to_process(choices: Choices, deterministic: bool, device: torch.device) -> None:
    """Set what torch keeps per process."""
    torch.set_num_threads(choices.threads)
    use_onednn(choices.onednn)
    if device.type == "cuda":
        # fp32 means fp32: torch would let cuDNN's convolutions drop 13 bits of the mantissa. Both flags by the older of
        # torch's two interfaces, which the newer one follows: after a use of both, torch refuses to answer.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = choices.precision == "tf32"
    if deterministic:
        if device.type == "cuda":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is refused in this mode without it
        torch.use_deterministic_algorithms(True)


def use_onednn(wanted: bool) -> None:
    """Have oneDNN compute this process's convolutions on a CPU from here on, or torch itself."""
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


def _made_for_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return _has_tf32(device)  # both came with Ampere
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    return "amx_bf16" in flags or "avx512_bf16" in flags


def _gains_by_channels_last(precision: str, onednn: bool, world: World) -> bool:
    """oneDNN's convolutions gain by it in every precision, cuDNN's where tensor cores do the work."""
    return onednn if world.device.type == "cpu" else precision != "fp32"
