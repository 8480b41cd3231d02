"""Export the weights or the network of a run for other programs.

    state_dict     the weights by their names
    checkpoint     the dictionary of PyTorch's courses: epoch, model_state_dict, optimizer_state_dict, loss
    torch_export   a program of `torch.export`, which needs none of the network's code
    onnx           a model of ONNX, e.g. for onnxruntime

Programs take inputs as the network gets them, normalised, in batches of any size. They contain a description of the
inputs as JSON: a program in its file `dist_train.json`, a model of ONNX in its metadata.
"""

import argparse
import copy
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dist_train.checkpoint import serialization
from dist_train.checkpoint.serialization import Files, encode
from dist_train.checkpoint.weights import load_pretrained, read_state_dict
from dist_train.errors import ConfigError
from dist_train.evaluate import load_checkpoint, load_config_of
from dist_train.interface.model import TrainedModel, load_model
from dist_train.nest import Nest, list_tensors, map_tensors
from dist_train.results import import_extra
from dist_train.results.output_file import check_writable, move, write_beside, write_whole
from dist_train.results.predictions import open_predictions
from dist_train.run_dir import RunDir
from dist_train.system.escape import escape
from dist_train.system.exit import FAILED

SAMPLES = 32
"""Samples of the held-out split on which an export is compared with the network."""
TOLERANCE = 1e-4
"""Allowed difference of another program's output, relative to the largest output."""
LARGEST = torch.finfo(torch.float64).max
_ABOUT = "dist_train.json"


def export(options: argparse.Namespace) -> int:
    """Export as the arguments of `dist-train export` say; return the exit code, 1 if `--check` finds a difference.

    Raises:
        UserError: there is no run or file of weights, or the network can't be exported; nothing is written.
    """
    check_writable(options.output)
    if options.run.is_file():
        return _convert(options)
    run = RunDir(options.run)
    load_config_of(run, options.overrides)  # raises if either is wrong
    checkpoint, files = load_checkpoint(run, options.checkpoint)
    is_program = options.format in ("torch_export", "onnx")
    model = _load(options, checkpoint, files) if is_program or options.check else None
    content = _make_program(options, model) if is_program and model else _make_weights(options.format, files)
    with write_beside(options.output, content) as aside:
        if options.check and model and not _check(options, aside, model, checkpoint):
            return FAILED
        move(aside, options.output)
    print(f"{escape(options.output)}: {options.format} of {escape(checkpoint)}, {len(content) / 1e6:,.1f} MB")
    return 0


def _convert(options: argparse.Namespace) -> int:
    """Write the weights that are in a file of another program."""
    if options.format != "state_dict" or options.check:
        raise ConfigError(
            f"{escape(options.run)}: is a file and no run; of a file, only --format state_dict can be written, without "
            "--check"
        )
    weights = read_state_dict(options.run, unsafe_pickle=options.unsafe_pickle)
    write_whole(options.output, encode(weights))
    print(f"{escape(options.output)}: state_dict of {escape(options.run)}, {len(weights)} tensors")
    return 0


def _make_weights(form: str, files: Files) -> bytes:
    """Return the file of weights that torch reads."""
    training = files["training.pt"]
    if form == "state_dict":
        return encode(_evaluated(files))
    return encode(
        {
            "epoch": training["epoch"],
            "model_state_dict": files["model.pt"],
            "optimizer_state_dict": training["optimizer_state_dict"],
            "loss": training["loss"],
        }
    )


def _evaluated(files: Files) -> dict[str, Tensor]:
    """Return the weights that an evaluation uses: the average, if there is one."""
    return files.get("average.pt") or files["model.pt"]


def _load(options: argparse.Namespace, checkpoint: Path, files: Files) -> TrainedModel:
    """Return the trained network; for the format `checkpoint` with the weights that the optimizer has updated."""
    model = load_model(options.run, options.checkpoint, overrides=options.overrides, trust_code=options.trust_code)
    if options.format == "checkpoint":
        serialization.load_weights(model.network, files["model.pt"], str(checkpoint))
    return model


def _make_program(options: argparse.Namespace, model: TrainedModel) -> bytes:
    """Trace the network, and return the file of its program or model; raises ConfigError if it can't be traced."""
    if options.format == "onnx":
        import_extra("onnxscript", "onnx")
    inputs = _make_inputs(options, model)
    batch = torch.export.Dim("batch")
    shapes = map_tensors(lambda _: {0: batch}, inputs)  # type: ignore[arg-type, return-value]
    with _quiet():
        try:
            program = torch.export.export(model.network, (inputs,), dynamic_shapes=(shapes,))
            return _encode_onnx(program, model) if options.format == "onnx" else _encode_program(program, model)
        except Exception as error:  # the exporters raise whatever the network leads them to
            reason = escape(next(iter(str(error).strip().splitlines()), repr(error)), 300)
            raise ConfigError(
                f"{escape(options.run)}: its network can't be exported as {options.format} ({type(error).__name__}: "
                f"{reason}); --format state_dict needs the network's code, and always works"
            ) from error


def _make_inputs(options: argparse.Namespace, model: TrainedModel) -> Nest:
    """Return a batch of two inputs as the network gets them, on the CPU."""
    if model.data.shape is not None:
        return torch.zeros(2, *model.data.shape)
    return next(_read_samples(options, 2))


def _read_samples(options: argparse.Namespace, count: int) -> Iterator[Nest]:
    """Yield batches of the first inputs of the split that is evaluated last."""
    with open_predictions(
        options.run, None, options.checkpoint, options.overrides, trust_code=options.trust_code
    ) as predictions:
        for batch in predictions.batches(limit=count):
            yield map_tensors(Tensor.cpu, batch.inputs)


def _encode_program(program: torch.export.ExportedProgram, model: TrainedModel) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={_ABOUT: json.dumps(_describe_inputs(model))})
    return buffer.getvalue()


def _encode_onnx(program: torch.export.ExportedProgram, model: TrainedModel) -> bytes:
    converted = torch.onnx.export(program, dynamo=True, verbose=False)
    assert converted is not None  # noqa: S101 - it is None where torch writes the file
    proto = converted.model_proto
    for key, value in _describe_inputs(model).items():
        proto.metadata_props.add(key=key, value=json.dumps(value))
    content: bytes = proto.SerializeToString()
    return content


def _describe_inputs(model: TrainedModel) -> dict[str, Any]:
    """Return the classes, shape, mean and std that a program's user needs."""
    data = model.data.to_dict()
    about = {"classes": data["classes"], "shape": data["shape"], "mean": data["mean"], "std": data["std"]}
    scaled = "(pixels / 255 - mean) / std, float32 [batch, channels, height, width], red first"
    return {**about, "inputs": scaled if data["mean"] else data["structure"], "step": model.step}


def _check(options: argparse.Namespace, path: Path, model: TrainedModel, checkpoint: Path) -> bool:
    """Compare an export with the network on samples, and print the largest difference; return whether they agree."""
    run = {"torch_export": _open_program, "onnx": _open_onnx}.get(options.format)
    exported = run(path) if run else _open_weights(path, model.network)
    largest = output = 0.0
    count = 0
    for inputs in _read_samples(options, SAMPLES):
        first = map_tensors(lambda tensor: tensor[:1], inputs)  # a batch of another size
        for each in (inputs, first):
            with torch.no_grad():
                expected = list_tensors(model.network(each))
            difference, size = _compare(expected, exported(each))
            largest, output = max(largest, difference), max(output, size)
        count += len(list_tensors(inputs)[0])
    is_equal = largest <= TOLERANCE * max(1.0, output)
    print(
        f"check: {count} samples, largest difference {largest:.2g}, largest output {output:.3g}"
        + ("" if is_equal else f": {options.format} of {escape(checkpoint)} differs, and is not written")
    )
    return is_equal


def _compare(expected: Sequence[Tensor], found: Sequence[Tensor]) -> tuple[float, float]:
    """Return the largest difference, LARGEST for other shapes, and the largest of the expected numbers."""
    if [tensor.shape for tensor in expected] != [tensor.shape for tensor in found]:
        return LARGEST, 0.0
    differences = (_subtract(*pair) for pair in zip(expected, found, strict=True))
    return max(map(_find_largest, differences), default=0.0), max(map(_find_largest, expected), default=0.0)


def _subtract(expected: Tensor, found: Tensor) -> Tensor:
    """Return the differences, 0 between equal infinities or NaNs, LARGEST between others."""
    differences = (_widen(expected) - _widen(found)).abs()
    is_same = (expected == found) | (expected.isnan() & found.isnan())
    return differences.masked_fill(is_same, 0.0).nan_to_num(nan=LARGEST, posinf=LARGEST)


def _find_largest(values: Tensor) -> float:
    finite = _widen(values[values.isfinite()]).abs()
    return float(finite.max()) if len(finite) else 0.0


def _widen(values: Tensor) -> Tensor:
    return values.to(torch.complex128 if values.is_complex() else torch.float64)


def _open_weights(path: Path, network: nn.Module) -> Callable[[Nest], list[Tensor]]:
    other = copy.deepcopy(network)
    for value in other.state_dict().values():
        value.zero_()
    load_pretrained(other, read_state_dict(path), path)
    return lambda inputs: list_tensors(other(inputs))


def _open_program(path: Path) -> Callable[[Nest], list[Tensor]]:
    with _quiet():
        network = torch.export.load(io.BytesIO(path.read_bytes())).module()
    return lambda inputs: list_tensors(network(inputs))


def _open_onnx(path: Path) -> Callable[[Nest], list[Tensor]]:
    runtime = import_extra("onnxruntime", "onnx")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def compute(inputs: Nest) -> list[Tensor]:
        arrays = (tensor.numpy() for tensor in list_tensors(inputs))
        return [torch.from_numpy(each) for each in session.run(None, dict(zip(names, arrays, strict=True)))]

    return compute


@contextmanager
def _quiet() -> Iterator[None]:
    """A block without the warnings and messages of the exporters, which are about their own code."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
