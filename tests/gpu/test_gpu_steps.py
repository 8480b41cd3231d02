"""What a step does on a GPU, shown without one: fake tensors have a shape and a device, and no numbers to be read.

So a step that read one, for which a real one would wait, fails here, and one that mixes tensors of two devices.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from dist_train.data import open_dataset
from dist_train.data.augment import Preprocessing
from dist_train.data.batches import Batch, TrainBatches
from dist_train.distributed.reduction import GradientReduction, SingleProcess
from dist_train.distributed.sharded_tree import ShardedTreeReduction
from dist_train.distributed.world import World
from dist_train.execution.auto_settings import Convolutions, decide
from dist_train.models import build_model
from dist_train.nest import map_tensors
from dist_train.settings.loader import load_config
from dist_train.settings.schema import Augment, Config, ImageData, Normalize
from dist_train.tasks import build_task
from dist_train.training import state as state_module
from dist_train.training.state import TrainState
from tests.modules import train

# Torch says so once, where the average copies the network.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")

GPU = torch.device("cuda", 0)
CONFIG = """
data: {name: synthetic, num_train: 64, num_test: 8, global_batch: 32, normalize: {mean: [0.5], std: [0.2]},
       augment: {crop_padding: 2, flip: true, cutout: 6}}
model: {name: mnist_example, dropout: 0.3}
optim: {name: sgd, lr: 0.02, momentum: 0.9}
train: {max_steps: 3, ema_decay: 0.9, max_grad_norm: 1.0}
"""
VARIANTS = {
    "fp32": [],
    "tf32": ["train.precision=tf32"],
    "auto": ["train.precision=auto"],
    "fp16": ["train.precision=fp16"],
    "micro batches": ["train.micro_batch=10"],
    "bitwise": ["run.reproducible=bitwise"],
}


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> FakeTensorMode:
    """Tensors that claim to be on a GPU, and no use of what only a real one has: its generator, its driver, autograd's
    threads and fused kernels."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def place(network: nn.Module, memory_format: torch.memory_format, world: World) -> nn.Module:
        for module in network.modules():
            for name, weight in module.named_parameters(recurse=False):
                format_ = memory_format if weight.dim() == 4 else torch.contiguous_format
                setattr(
                    module, name, nn.Parameter(mode.from_tensor(weight.data).to(world.device, memory_format=format_))
                )
        return network

    def backward(loss: Tensor, gradient: Tensor | None = None) -> None:
        assert loss.device == GPU
        assert gradient is None or gradient.device == GPU
        for weight in mode.weights:  # type: ignore[attr-defined]
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad.add_(1)

    def fused(*tensors: Any, **_: Any) -> None:
        assert {each.device for group in tensors for each in group} == {GPU}

    monkeypatch.setattr(state_module, "move_network", place)
    monkeypatch.setattr(train, "seed_step", lambda *_: None)
    monkeypatch.setattr(Tensor, "backward", backward)
    monkeypatch.setattr(train, "backward", backward)
    monkeypatch.setattr(torch, "_fused_sgd_", fused)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    return mode


def configured(directory: Path, *overrides: str) -> Config:
    path = directory / "config.yaml"
    path.write_text(CONFIG)
    return load_config(path, [f"data.cache={directory / 'cache'}", *overrides])


def on_gpu(batch: Batch, mode: FakeTensorMode) -> Batch:
    def fake(tensor: Tensor) -> Tensor:
        return mode.from_tensor(tensor).to(GPU)

    return replace(
        batch, shards=tuple(replace(shard, passes=map_tensors(fake, shard.passes)) for shard in batch.shards)
    )


def test_fakes_tell_of_reads_and_of_mixed_devices(fakes: FakeTensorMode) -> None:
    with fakes, pytest.raises(DataDependentOutputException):
        torch.ones((), device=GPU).item()
    with fakes, pytest.raises(RuntimeError, match="device"):
        torch.ones(2, device=GPU) + torch.ones(2)


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)
def test_a_step_reads_nothing_of_the_device(fakes: FakeTensorMode, tmp_path: Path, overrides: list[str]) -> None:
    config = configured(tmp_path, *overrides)
    world = World(device=GPU)
    dataset = open_dataset(config.data, config.run.seed, World())
    network = build_model(config.model, dataset.shape, 10, config.run.seed)
    settings = decide(config.train, config.distributed, world, Convolutions(10**6, 64, 64), None, config.shards)
    with TrainBatches(dataset, config.data, 0, World(), 0, 3, settings.memory_format, config.shards) as stream:
        batches = list(stream)
    with fakes:
        state = TrainState(config, network, settings, world)
        fakes.weights = list(state.network.parameters())  # type: ignore[attr-defined]
        kind = ShardedTreeReduction if config.shards else SingleProcess
        reduction: GradientReduction = kind(state.network, state.network, world)
        task = build_task(config, tuple(map(str, range(10))))
        for batch in batches:
            scalars, grad_norm = train.train_step(state, reduction, task, on_gpu(batch, fakes), config)
            assert grad_norm is not None
            assert (scalars.device, scalars.shape, grad_norm.device) == (GPU, (2,), GPU)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_images_are_prepared_where_they_are(
    fakes: FakeTensorMode, tmp_path: Path, memory_format: torch.memory_format
) -> None:
    config = configured(tmp_path)
    with fakes:
        assert isinstance(config.data, ImageData)
        normalize, augment = config.data.normalize, config.data.augment
        assert isinstance(normalize, Normalize)
        assert isinstance(augment, Augment)
        preparation = Preprocessing(normalize, augment, 0, GPU, memory_format)
        images = torch.zeros(32, 3, 28, 28, dtype=torch.uint8, device=GPU)
        prepared = preparation.augment(images, torch.arange(32, device=GPU), epoch=0)
    assert (prepared.device, prepared.shape) == (GPU, (32, 3, 28, 28))
    assert prepared.is_contiguous(memory_format=memory_format)
