"""Predict pictures, tables and samples of a split: by a run, or by a pretrained network."""

import argparse
import re
import sys
from pathlib import Path

import torch
from torch import Tensor

from dist_train import TrainedModel, load_model
from dist_train.data.batches import count_images
from dist_train.data.datasets.picture import decode, open_picture
from dist_train.data.datasets.table import prepare_rows
from dist_train.data.identity import TableFormat
from dist_train.distributed.world import World, open_world
from dist_train.errors import ConfigError, DataError
from dist_train.evaluate import compute_output
from dist_train.execution.auto_settings import use_onednn
from dist_train.execution.cpu_layers import use_fast_cpu_layers
from dist_train.execution.gpu import configure_gpu
from dist_train.monitoring.console import log_to_terminal
from dist_train.monitoring.input_pictures import find_pictures, to_pictures
from dist_train.nest import Nest, move_inputs
from dist_train.own_code.load import own_failures
from dist_train.results.predict.lines import AnswerLines
from dist_train.results.predict.picture_files import PictureNetwork, list_files, predict_files
from dist_train.results.predict.pictures import AnswerGrid
from dist_train.results.predict.pretrained import DEFAULT, KINDS, open_pretrained
from dist_train.results.predictions import open_predictions
from dist_train.run_dir import RunDir
from dist_train.system.escape import escape, escape_lines
from dist_train.system.exit import FAILED
from dist_train.tasks.answers import AnswerReader

FEW = 20
"""Samples of a split that are predicted by default."""
_PRETRAINED_BATCH = 32
"""Pictures that a network of a library takes at once; many are large."""
_GRID_SIDE = 224
_ROWS = 1000
"""Rows of a table that are computed at once."""
_NO_PICTURES = "the samples are no pictures; leave it out (dist-train show and plot draw numbers)"
_OVERRIDE = re.compile(r"[a-z_]\w*(\.\w+)*=")


def predict(options: argparse.Namespace) -> int:
    """Predict as the arguments of `dist-train predict` say; return the exit code."""
    log_to_terminal(World(), sys.stderr)
    inputs = [each for each in options.inputs if not _is_override(each)]
    overrides = [each for each in options.inputs if _is_override(each)]
    is_pretrained = options.run.partition("/")[0] in KINDS and not RunDir(options.run).config.exists()
    _check(options, inputs, overrides, is_pretrained)
    lines = AnswerLines(options.json, options.csv)
    grid = AnswerGrid(options.output)
    with own_failures(lambda: f"after {lines.count} predictions"):
        if is_pretrained:
            faults = _predict_files(inputs, _open_pretrained(options), options, lines, grid)
        elif inputs:
            model = load_model(options.run, options.checkpoint, overrides=overrides, trust_code=options.trust_code)
            if model.data.table:
                faults = _predict_tables(inputs, model.data.table, open_network(model), options, lines)
            else:
                faults = _predict_files(inputs, open_network(model), options, lines, grid)
        else:
            faults = 0
            _predict_split(options, overrides, lines, grid)
    lines.print_summary()
    grid.draw()
    if not faults:
        return 0
    print(f"{faults} of {faults + lines.count} could not be read", file=sys.stderr)
    return FAILED if lines.count else DataError.exit_code


def _is_override(text: str) -> bool:
    return _OVERRIDE.match(text) is not None and not Path(text).exists()


def _check(options: argparse.Namespace, inputs: list[str], overrides: list[str], is_pretrained: bool) -> None:
    """Raise ConfigError for arguments that don't go together."""
    name = escape(options.run)
    if is_pretrained:
        if overrides or options.split or options.checkpoint != "latest":
            given = overrides[0] if overrides else "--split" if options.split else "--checkpoint"
            raise ConfigError(f"{escape(given)}: is for a run, and {name} is none; --weights chooses its weights")
        if not inputs:
            raise ConfigError(f"{name}: has no data of its own; name pictures or folders of pictures")
    elif options.weights:
        raise ConfigError(f"--weights {escape(options.weights)}: {name} is a run; --checkpoint chooses its weights")
    elif inputs and options.split:
        raise ConfigError(f"--split {options.split}: beside files; leave out one of them")


def _predict_split(options: argparse.Namespace, overrides: list[str], lines: AnswerLines, grid: AnswerGrid) -> None:
    opening = open_predictions(options.run, options.split, options.checkpoint, overrides, trust_code=options.trust_code)
    with opening as predictions:
        config, dataset = predictions.opened.config, predictions.opened.dataset
        if options.output and find_pictures(dataset.make_example(1)[0]) is None:
            raise ConfigError(f"-o {escape(options.output)}: {_NO_PICTURES}")
        reader = AnswerReader(config.task, dataset.classes, config.loss.output)
        for batch in predictions.batches(options.limit or FEW):
            answers = reader.read(batch.output, batch.targets, options.top)
            for index, answer in zip(batch.indices.tolist(), answers, strict=True):
                lines.print({"index": index}, answer)
            if grid.has_room:
                names = (f"index {index}" for index in batch.indices.tolist())
                grid.add(to_pictures(batch.inputs, dataset.normalize) or (), answers, names)


def _predict_files(
    paths: list[str], network: PictureNetwork, options: argparse.Namespace, lines: AnswerLines, grid: AnswerGrid
) -> int:
    """Print an answer for each picture; return how many can't be read."""
    faults = 0
    for found in predict_files(list_files(paths)[: options.limit], network, options.top):
        if isinstance(found, DataError):
            print(escape_lines(str(found)), file=sys.stderr)
            faults += 1
            continue
        file, answer = found
        lines.print({"file": file}, answer)
        if grid.has_room:
            grid.add([decode(file, _GRID_SIDE).transpose(1, 2, 0)], [answer], [Path(file).name])
    return faults


def _predict_tables(
    paths: list[str], table: TableFormat, network: PictureNetwork, options: argparse.Namespace, lines: AnswerLines
) -> int:
    """Print an answer for each row; return how many tables can't be read."""
    if options.output:
        raise ConfigError(f"-o {escape(options.output)}: {_NO_PICTURES}")
    faults = 0
    for path in paths:
        try:
            inputs, targets = prepare_rows(Path(path), table)
        except DataError as error:
            print(escape_lines(str(error)), file=sys.stderr)
            faults += 1
            continue
        rows = torch.arange(len(inputs))[: options.limit and options.limit - lines.count]
        for part in torch.split(rows, _ROWS):
            truths = None if targets is None else targets[part]
            answers = network.answers.read(network.compute(inputs[part]), truths, options.top)
            for row, answer in zip(part.tolist(), answers, strict=True):
                lines.print({"file": path, "index": row}, answer)
    return faults


def open_network(model: TrainedModel) -> PictureNetwork:
    """Return the network of a run, as fast as in an evaluation of it."""
    config, auto_settings = model.config, model.auto_settings
    world = open_world(config.distributed, {})
    if world.device.type == "cuda":
        configure_gpu(auto_settings.precision, deterministic=config.is_deterministic)
    use_onednn(True)
    memory_format = auto_settings.memory_format
    model.to(device=world.device, memory_format=memory_format)  # type: ignore[call-overload]
    use_fast_cpu_layers(model.network)

    def compute(pictures: Tensor) -> Nest:
        inputs = move_inputs(model.preprocess(pictures), world.device, memory_format)
        return compute_output(model.network, inputs, auto_settings, world)

    return PictureNetwork(
        read=model.read_picture,
        compute=compute,
        answers=AnswerReader(config.task, model.classes, config.loss.output),
        batch=count_images(model.data.shape, world.device) if model.data.shape else 1,
    )


def _open_pretrained(options: argparse.Namespace) -> PictureNetwork:
    found = open_pretrained(options.run, options.weights or DEFAULT, trust_code=options.trust_code)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = found.network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    use_fast_cpu_layers(network)

    def compute(pictures: Tensor) -> Nest:
        with torch.no_grad():
            return network(move_inputs(pictures, device, torch.channels_last))

    return PictureNetwork(
        read=lambda path: found.transform(open_picture(path)),
        compute=compute,
        answers=AnswerReader("classification", found.classes),
        batch=_PRETRAINED_BATCH,
    )
