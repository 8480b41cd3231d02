"""One exact pass over held-out data: every sample once, the same integers at any number of ranks.

    python -m dist_train.evaluate runs/digits [--split test] [--checkpoint best] [--json] [key=value ...]

evaluates a run's checkpoint; under torchrun the ranks share the work.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dist_train.checkpoint import serialization
from dist_train.checkpoint.store import find
from dist_train.data import Dataset, Samples, open_dataset
from dist_train.data.batches import EvalBatch, eval_batches
from dist_train.distributed.world import World, open_world
from dist_train.errors import CheckpointError, ConfigError
from dist_train.execution.auto_settings import Choices, apply_to_process, use_onednn
from dist_train.execution.cpu_layers import use_fast_cpu_layers
from dist_train.models import build_model
from dist_train.monitoring.console import log_to_terminal
from dist_train.run_dir import RunDir
from dist_train.settings.loader import load_run_config
from dist_train.settings.schema import Data
from dist_train.system.exit import Parser, leave, only_first_rank_reports, run_guarded
from dist_train.system.stop_signals import Stop, StopRequested


@dataclass(frozen=True)
class Evaluation:
    """What one pass has counted."""

    split: str
    loss: float
    """Mean cross-entropy a sample, without label smoothing."""
    correct: tuple[int, ...]
    """Samples of each class whose class had the highest logit."""
    count: tuple[int, ...]
    """Samples of each class."""
    classes: tuple[str, ...]

    @property
    def accuracy(self) -> float:
        return sum(self.correct) / sum(self.count)

    def to_dict(self) -> dict[str, Any]:
        """As a line of `metrics.jsonl` has it; `per_class` leaves out classes without a sample."""
        rows = zip(self.classes, self.correct, self.count, strict=True)
        return {
            "split": self.split,
            "loss": self.loss,
            "accuracy": self.accuracy,
            "correct": sum(self.correct),
            "count": sum(self.count),
            "per_class": {
                name: {"accuracy": correct / count, "correct": correct, "count": count}
                for name, correct, count in rows
                if count
            },
        }

    def __str__(self) -> str:
        right, count = sum(self.correct), sum(self.count)
        return f"{self.split} accuracy {100 * self.accuracy:.2f} % ({right} of {count}), loss {self.loss:.4f}"


def evaluate(
    network: nn.Module,
    samples: Samples,
    dataset: Dataset,
    config: Data,
    choices: Choices,
    world: World,
    stop: Stop | None = None,
    mark: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Evaluate the plain `network` (no DDP around it) in evaluation mode, and leave it in training mode.

    The batches are cut the same way at every number of ranks and dealt out whole, so that a near tie falls the same
    way, and each loss lands in a place of its own before they are added in a fixed order.

    Args:
        stop: whether this process is asked to stop.
        mark: called at each batch, to show that the evaluation goes on.

    Raises:
        StopRequested: on every rank, if one was asked to stop meanwhile.
    """
    classes = len(dataset.classes)
    correct, count = (torch.zeros(classes, dtype=torch.int64, device=world.device) for _ in range(2))
    stops = torch.zeros((), dtype=torch.int64, device=world.device)
    losses = torch.zeros(len(samples), dtype=torch.float64, device=world.device)
    network.eval()
    use_onednn(True)  # the batches are large whatever the training's are
    batches = eval_batches(samples, dataset, config, world, choices.memory_format)
    try:
        for batch in _awaited(batches, stop or Stop()):
            mark()
            logits = _logits(network, batch.images, choices, world)
            losses[batch.number] = functional.cross_entropy(logits, batch.labels, reduction="sum")
            right = logits.argmax(dim=1) == batch.labels
            # A mask, and `bincount`, would wait for a GPU to say how many there are.
            correct.index_add_(0, batch.labels, right.to(correct.dtype))
            count.index_add_(0, batch.labels, torch.ones_like(batch.labels))
    except StopRequested:
        stops += 1  # the others learn it below
    network.train()
    use_onednn(choices.onednn)
    for tensor in (stops, correct, count, losses):
        world.sum_(tensor)
    if stops:
        raise StopRequested
    loss = losses.sum().item() / len(samples)
    return Evaluation(samples.split, loss, tuple(correct.tolist()), tuple(count.tolist()), dataset.classes)


def _awaited(batches: Iterator[EvalBatch], stop: Stop) -> Iterator[EvalBatch]:
    """The batches; raises StopRequested if this process is asked to stop, also while it waits for one."""
    while True:
        with stop.waiting():
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


@torch.no_grad()
def _logits(network: nn.Module, images: Tensor, choices: Choices, world: World) -> Tensor:
    """Logits in at least fp32, so that a tie of low precision is a tie in every sum."""
    if choices.autocast_dtype is None:
        return network(images)  # type: ignore[no-any-return]
    with torch.autocast(world.device.type, choices.autocast_dtype):
        return network(images).float()  # type: ignore[no-any-return]


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate a checkpoint of a run and print the result."""
    with only_first_rank_reports():
        options = _parse(arguments)
        run = RunDir(options.run)
        if not run.config.exists():
            raise CheckpointError(f"{run.path}: is no run: it has no config.yaml; give a directory below runs/")
        config = load_run_config(run.config, options.overrides)
        world = open_world(config.distributed)
    log_to_terminal(world, sys.stderr)
    with world.agreement():
        place = find(_checkpoint_path(run, options.checkpoint))
        files = serialization.load(place).files
        training = files["training.pt"]
        choices = Choices.from_dict(training["choices"])
        dataset = open_dataset(config.data, config.run.seed, world)
        network = build_model(config.model, dataset.shape, len(dataset.classes), config.run.seed)
        samples = _samples(dataset, options.split)
        name = "average.pt" if "average.pt" in files else "model.pt"
        serialization.load_weights(network, files[name], name)
    apply_to_process(choices, config.run.deterministic, world.device)
    network.to(device=world.device, memory_format=choices.memory_format)  # type: ignore[call-overload]
    use_fast_cpu_layers(network)
    evaluation = evaluate(network, samples, dataset, config.data, choices, world)
    if world.is_main:
        _print(run, place, training["step"], evaluation, options.json)
    world.close()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m dist_train.evaluate", description=main.__doc__)
    parser.add_argument("run", type=Path, help="the run's directory, e.g. runs/digits")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="other settings, e.g. data.root=...")
    parser.add_argument("--split", choices=("train", "validation", "test"), default="test")
    parser.add_argument(
        "--checkpoint", default="latest", help="latest (default), best, a step's number, or a checkpoint's directory"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_intermixed_args(arguments)


def _checkpoint_path(run: RunDir, wanted: str) -> Path:
    if wanted == "latest":
        return run.path
    if wanted.isdecimal():
        return run.checkpoints / f"step_{int(wanted):08d}"
    inside = run.checkpoints / wanted
    return inside if inside.exists() else Path(wanted)


def _samples(dataset: Dataset, split: str) -> Samples:
    samples: Samples | None = getattr(dataset, split)
    if samples is None:
        raise ConfigError("--split validation: this run has none; data.validation is 0")
    return samples


def _print(run: RunDir, place: Path, step: int, evaluation: Evaluation, as_json: bool) -> None:
    result = {"run": str(run.path), "checkpoint": str(place), "step": step, **evaluation.to_dict()}
    if as_json:
        print(json.dumps(result))
        return
    print(f"{place}: {evaluation}")
    for name, row in result["per_class"].items():
        print(f"  {name:<20} {100 * row['accuracy']:6.2f} %  ({row['correct']} of {row['count']})")


if __name__ == "__main__":
    leave(run_guarded(main))
