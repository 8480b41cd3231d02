"""One exact pass over held-out data: every sample once, the same bits at any number of ranks.

    python -m dist_train.evaluate runs/digits [--split test] [--checkpoint best] [--json] [--trust-code] [key=value ...]

evaluates a run's checkpoint; under torchrun the ranks share the work.
"""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from dist_train.system.exit import Parser, leave, only_first_rank_reports, run_guarded

# torch would end the process without a message in a working directory that has been removed.
if __name__ == "__main__" and (code := run_guarded(lambda: None)):
    leave(code)

import torch
from torch import nn

from dist_train.checkpoint import resume, serialization
from dist_train.checkpoint.code_of_run import code_of_run
from dist_train.checkpoint.store import find
from dist_train.data import DataFormat, Samples, open_dataset, open_split
from dist_train.data.batches import EvalBatch, eval_batch_size, eval_batches
from dist_train.data.identity import DataIdentity, compare
from dist_train.data.samples import SplitName
from dist_train.distributed.world import World, open_world
from dist_train.errors import CheckpointError, ConfigError, DamagedError, DataError
from dist_train.execution.auto_settings import AutoSettings, apply_to_process, use_onednn
from dist_train.execution.cpu_layers import use_fast_cpu_layers
from dist_train.models import build_model
from dist_train.models.freeze import evaluation_mode
from dist_train.monitoring.console import log_to_terminal
from dist_train.nest import Nest, move_inputs, to_floats
from dist_train.own_code.load import own_failures
from dist_train.run_arguments import add_evaluate_arguments
from dist_train.run_dir import RunDir
from dist_train.settings.loader import load_run_config
from dist_train.settings.schema import Config, Data
from dist_train.settings.tasks import find_ignored_label
from dist_train.system.escape import escape
from dist_train.system.stop_signals import Stop, StopRequested
from dist_train.tasks import Evaluation, Task, build_task

_log = logging.getLogger(__name__)


def evaluate(
    network: nn.Module,
    task: Task,
    samples: Samples,
    dataset: DataFormat,
    config: Data,
    auto_settings: AutoSettings,
    world: World,
    stop: Stop | None = None,
    mark: Callable[[], None] = lambda: None,
    batch_size: int | None = None,
    observe: Callable[[EvalBatch, Nest], None] | None = None,
) -> Evaluation | None:
    """Evaluate `network` on all `samples` in evaluation mode; return None if a rank was asked to stop meanwhile.

    The batches are cut alike at every number of ranks and each goes to one rank, so that a near tie falls the same way.

    Args:
        network: the plain module, without DDP; its layers have the modes of before afterwards.
        stop: whether this process is asked to stop.
        mark: called at each batch, to show progress.
        batch_size: `eval.batch_size`.
        observe: called with each batch of this rank and the network's output.
    """
    size = batch_size or eval_batch_size(dataset, config, world.device)
    num_batches = -(-len(samples) // size)
    sums = task.open_evaluation(num_batches, world.device)
    stop_requests = torch.zeros((), dtype=torch.int64, device=world.device)
    use_onednn(True)  # evaluation batches are large even if those of the training are small
    with world.agreement(), evaluation_mode(network):  # the user's code may raise on one rank
        try:
            for batch in eval_batches(samples, dataset, config, world, auto_settings.memory_format, stop, size):
                mark()
                output = compute_output(network, batch.inputs, auto_settings, world)
                sums.add(batch.number, output, batch.targets, batch.num_samples)
                if observe:
                    observe(batch, output)
        except StopRequested:
            stop_requests += 1
    use_onednn(auto_settings.onednn)
    world.sum_(stop_requests)
    sums.reduce(world)
    return None if stop_requests else sums.result(samples.split)


@torch.no_grad()
def compute_output(network: nn.Module, inputs: Nest, auto_settings: AutoSettings, world: World) -> Nest:
    """Return the output in at least fp32, so that a tie of low precision is a tie in every sum."""
    if auto_settings.autocast_dtype is None:
        return network(inputs)
    with torch.autocast(world.device.type, auto_settings.autocast_dtype):
        return to_floats(network(inputs))


def try_out(task: Task, network: nn.Module, dataset: DataFormat, auto_settings: AutoSettings, world: World) -> None:
    """Compute the loss of two samples in evaluation mode, which tells the task what the network returns.

    Args:
        network: the plain module, on this rank's device.

    Raises:
        UserError: output and target do not fit the task.
        OwnCodeError: the user's loss raises.
    """
    inputs, targets = move_inputs(dataset.make_example(2), world.device, auto_settings.memory_format)
    dtype = auto_settings.autocast_dtype
    with evaluation_mode(network), nullcontext() if dtype is None else torch.autocast(world.device.type, dtype):
        output = network(inputs)
        task.try_out(output, targets, 2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate a checkpoint of a run and print the result."""
    parser = Parser(prog="python -m dist_train.evaluate", description=main.__doc__)
    add_evaluate_arguments(parser)
    with only_first_rank_reports():
        options = parser.parse_intermixed_args(arguments)
    evaluate_and_print(options)


def evaluate_and_print(options: argparse.Namespace) -> None:
    """Evaluate as the arguments say, which are those of `add_evaluate_arguments`, and print the result."""
    with only_first_rank_reports():
        run = RunDir(options.run)
        config = load_config_of(run, options.overrides)
        world = open_world(config.distributed)
    log_to_terminal(world, sys.stderr)
    evaluated = evaluate_run(run, config, options.split, options.checkpoint, world, options.trust_code)
    if world.is_main:
        _print(run, evaluated, options.json)
    world.close()


def load_config_of(run: RunDir, overrides: Sequence[str] = ()) -> Config:
    """Return the settings of a run; raises CheckpointError if it is none, ConfigError for faults in `overrides`."""
    if not run.config.exists():
        raise CheckpointError(f"{escape(run.path)}: is not a run: it has no config.yaml; give a directory below runs/")
    return load_run_config(run.config, overrides)


@dataclass(frozen=True)
class EvaluatedCheckpoint:
    """A checkpoint and the result of its evaluation."""

    path: Path
    step: int
    evaluation: Evaluation


def evaluate_run(
    run: RunDir, config: Config, split: SplitName | None, checkpoint: str, world: World, trust_code: bool = False
) -> EvaluatedCheckpoint:
    """Evaluate a checkpoint of a run on one split; every rank calls this and gets the same.

    Raises:
        UserError: the checkpoint or the data can't be read, or do not fit together.
    """
    with open_evaluation(run, config, split, checkpoint, world, trust_code) as opened:
        evaluation = evaluate(
            opened.network,
            opened.task,
            opened.samples,
            opened.dataset,
            opened.config.data,
            opened.auto_settings,
            world,
            batch_size=opened.config.eval.batch_size,
        )
        if evaluation is None:
            raise StopRequested
        return EvaluatedCheckpoint(opened.path, opened.step, evaluation)


@dataclass(frozen=True)
class OpenEvaluation:
    """A checkpoint of a run and a split of its data, ready for an evaluation."""

    path: Path
    """Directory of the checkpoint."""
    step: int
    config: Config
    """Settings of the run, whose references lead to the copies of its code."""
    network: nn.Module
    """The network on the rank's device: the moving average in a run with `train.ema_decay`."""
    task: Task
    dataset: DataFormat
    samples: Samples
    auto_settings: AutoSettings


@contextmanager
def open_evaluation(
    run: RunDir, config: Config, split: SplitName | None, checkpoint: str, world: World, trust_code: bool = False
) -> Iterator[OpenEvaluation]:
    """A block in which the network of a checkpoint and a split of its data are open; every rank enters it.

    Args:
        split: None: the one that the training evaluates at its end.
        checkpoint: as `--checkpoint`.
        trust_code: as `--trust-code`.

    Raises:
        UserError: the checkpoint or the data can't be read, or do not fit together.
    """
    with ExitStack() as block:
        block.enter_context(own_failures(lambda: f"in the evaluation, on rank {world.rank}"))
        with world.agreement():
            config = block.enter_context(code_of_run(config, run.path, trust_code))
            path, files = load_checkpoint(run, checkpoint)
            training = files["training.pt"]
            auto_settings = AutoSettings.from_dict(training["choices"])
            dataset, samples = _open_split(config, world, split, resume.read_data_identity(files))
            example, _ = dataset.make_example(1)
            network = build_model(config.model, dataset.shape, len(dataset.classes), config.run.seed, example)
            name = "average.pt" if "average.pt" in files else "model.pt"
            serialization.load_weights(network, files[name], str(path / name))
        apply_to_process(auto_settings, config.is_deterministic, world.device)
        network.to(device=world.device, memory_format=auto_settings.memory_format)  # type: ignore[call-overload]
        use_fast_cpu_layers(network)
        with world.agreement():
            task = build_task(config, dataset.classes, world)
            try_out(task, network, dataset, auto_settings, world)
        yield OpenEvaluation(path, training["step"], config, network, task, dataset, samples, auto_settings)


def load_checkpoint(run: RunDir, wanted: str) -> tuple[Path, serialization.Files]:
    """Return the directory of the checkpoint that `--checkpoint` names, and its files; raises CheckpointError."""
    path = find(find_checkpoint(run, wanted))
    try:
        return path, serialization.load(path).files
    except DamagedError as error:
        raise DamagedError(f"{error}; dist-train ckpt verify {escape(run.path)} says which are undamaged") from error


def find_checkpoint(run: RunDir, wanted: str) -> Path:
    """Return the path of the checkpoint that `--checkpoint` names, or that of the run for its newest one."""
    if wanted == "latest":
        return run.path
    if wanted.isdecimal() and len(wanted) < 19:
        return run.checkpoints / f"step_{int(wanted):08d}"
    inside = run.checkpoints / wanted
    return inside if inside.exists() else Path(wanted)


def _open_split(
    config: Config, world: World, split: SplitName | None, stored: DataIdentity | None
) -> tuple[DataFormat, Samples]:
    """Open a split with the mean and std of the run; of a run that did not store them, all splits.

    Args:
        split: None: the one that the training evaluates at its end.

    Raises:
        DataError: the split has other classes, or images of another shape, than the run was trained on.
    """
    ignored = find_ignored_label(config)
    if stored is None:
        _log.info("the run did not store which data it was trained on: mean and std are those of the data now")
        dataset = open_dataset(config.data, config.run.seed, world, ignored_label=ignored)
        samples: Samples | None = getattr(dataset, split) if split else dataset.held_out[-1]
        if samples is None:
            raise ConfigError(f"--split {split}: this run has none")
        return dataset, samples
    split = split or ("test" if "test" in stored.splits else "validation")
    opened = open_split(config.data, config.run.seed, world, split, stored, ignored)
    now = opened.identity
    if differences := compare(stored.restrict(now.splits), now, "in the run", "now"):
        if (stored.classes, stored.shape) != (now.classes, now.shape):
            raise DataError("\n  ".join(["data: the run was trained on other classes or shapes:", *differences]))
        _log.warning("the data are not those of the run: %s", "; ".join(differences))
    return opened, opened.samples


def _print(run: RunDir, evaluated: EvaluatedCheckpoint, as_json: bool) -> None:
    path, evaluation = evaluated.path, evaluated.evaluation
    result = {"run": str(run.path), "checkpoint": str(path), "step": evaluated.step, **evaluation.to_dict()}
    if as_json:
        print(json.dumps(result))
        return
    print(f"{escape(path)}: {evaluation}")
    for name, row in result.get("per_class", {}).items():
        score = row.get("accuracy", row.get("f1"))
        shown = "" if score is None else f"{100 * score:6.2f} %"
        print(f"  {escape(name):<20} {shown:>8}  ({row['correct']} of {row['count']})")
    for row in result.get("confusion_matrix", []):
        print("  " + " ".join(f"{count:>6}" for count in row))


if __name__ == "__main__":
    leave(run_guarded(main))
