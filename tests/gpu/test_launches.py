"""How many kernels a step launches more than the bare loop: each costs a GPU some microseconds.

Counted on the CPU, as the operations that torch dispatches: those of one step on a GPU are the same ones. Views and
empty tensors launch nothing.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from dist_train.data import Dataset, open_dataset
from dist_train.data.augment import Preprocessing
from dist_train.data.batches import TrainBatches
from dist_train.distributed.reduction import SingleProcess
from dist_train.distributed.world import World
from dist_train.execution import cpu_layers, small_convolutions
from dist_train.execution.auto_settings import AutoSettings, Convolutions, decide
from dist_train.models import build_model
from dist_train.optim.build import build_optimizer
from dist_train.settings.loader import load_config
from dist_train.settings.schema import Config
from dist_train.tasks import build_task
from dist_train.train import train_step
from dist_train.training.state import TrainState
from dist_train.training.step_results import StepResults
from tests.conftest import ROOT

BUDGET = 12
GPU = torch.device("cuda", 0)
# Images of the shape that each recipe has, without its files; ResNet-18 takes smaller ones by the same operations.
SHAPES = {
    "digits": [1, 8, 8],
    "mnist_cnn": [1, 28, 28],
    "mnist_lenet": [1, 28, 28],
    "mnist_example": [1, 28, 28],
    "cifar10_tutorial": [3, 32, 32],
    "cifar10_resnet18": [3, 8, 8],
}
BATCH, STEPS = 8, 20
"""As many steps as are prepared together for ResNet-18 on a GPU."""


class Launches(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that would launch a kernel."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "aten" and not is_view(func) and not func.name().startswith("aten::empty"):
            self.counts[func.name()] += 1
        return func(*args, **(kwargs or {}))


def is_view(func: Any) -> bool:
    """Whether an operation returns its input's memory and writes nothing."""
    aliases = [returned.alias_info for returned in func._schema.returns]
    return bool(aliases) and all(alias is not None and not alias.is_write for alias in aliases)


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scalars are copied to the host, and layers compute, as on a GPU."""

    class Event:
        def record(self) -> None: ...

        def synchronize(self) -> None: ...

    empty_like = torch.empty_like
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch, "empty_like", lambda *given, **more: empty_like(*given, **{**more, "pin_memory": False}))
    monkeypatch.setattr(cpu_layers, "_gains", lambda *_: False)
    monkeypatch.setattr(small_convolutions._Protected, "_is_wrong", lambda *_: False)  # of a CPU only


def settings_of(recipe: str, tmp_path: Path) -> Config:
    shape = SHAPES[recipe]
    return load_config(
        ROOT / f"configs/{recipe}.yaml",
        [
            "data.name=synthetic", f"data.shape={shape}", f"data.num_train={BATCH * STEPS}", "data.num_test=8",
            f"data.global_batch={BATCH}", f"data.cache={tmp_path}", "train.epochs=1", "train.max_steps=null",
        ],
    )  # fmt: skip


def count_ours(
    config: Config, network: nn.Module, dataset: Dataset, chosen: AutoSettings, monkeypatch: pytest.MonkeyPatch
) -> Counter[str]:
    """Count what a rank's steps, their scalars, and the preparation of their images launch; the rest is the host's."""
    launches, augment = Launches(), Preprocessing.augment

    def augment_and_count(self: Preprocessing, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        launches.counts["copies of images, labels and numbers to the GPU, and their selection"] += 4
        with launches:
            return augment(self, images, indices, epoch)

    monkeypatch.setattr(Preprocessing, "augment", augment_and_count)
    state = TrainState(config, network, chosen, World())
    reduction = SingleProcess(state.network, state.network, World())
    results, task = StepResults(GPU), build_task(config, dataset.classes)
    with TrainBatches(dataset, config.data, 0, World(), 0, STEPS, chosen.memory_format) as batches:
        for number, batch in enumerate(batches, start=1):
            with launches:
                results.add(number, 0.1, batch.samples, *train_step(state, reduction, task, batch, config))
    return launches.counts


def count_bare(config: Config, network: nn.Module, dataset: Dataset, chosen: AutoSettings) -> Counter[str]:
    """Count the loop that a lesson has, on one batch, with the fused optimizer."""
    network = network.to(memory_format=chosen.memory_format)
    optimizer = build_optimizer(config.optim, network)
    images = dataset.make_example(BATCH)[0].contiguous(memory_format=chosen.memory_format)
    labels = torch.zeros(BATCH, dtype=torch.int64)
    with Launches() as launches:
        for _ in range(STEPS):
            optimizer.zero_grad()
            with torch.autocast("cpu", chosen.autocast_dtype, enabled=chosen.autocast_dtype is not None):
                logits = network(images)
            functional.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    counts: Counter[str] = launches.counts
    return counts


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("recipe", SHAPES)
def test_a_step_launches_few_kernels_more_than_the_bare_loop(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings_of(recipe, tmp_path)
    dataset = open_dataset(config.data, config.run.seed, World())
    chosen = decide(config.train, config.distributed, World(device=GPU), Convolutions(10**6, 64, 64), None)
    networks = [build_model(config.model, dataset.shape, 10, config.run.seed) for _ in range(2)]
    ours = count_ours(config, networks[0], dataset, chosen, monkeypatch)
    bare = count_bare(config, networks[1], dataset, chosen)
    more = (ours.total() - bare.total()) / STEPS
    print(f"{recipe}: {more:.1f} operations a step more than the bare loop's {bare.total() / STEPS:.0f}")
    assert more <= BUDGET, {name: number / STEPS for name, number in (ours - bare).most_common()}


def test_every_recipe_without_files_of_its_own_is_counted() -> None:
    recipes = {path.stem for path in (ROOT / "configs").glob("*.yaml")}
    assert recipes - set(SHAPES) == {"image_folder"}, "a new recipe belongs above"
