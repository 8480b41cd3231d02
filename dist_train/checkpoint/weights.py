"""Weights that any program wrote: read from a file of torch or safetensors, a run or a checkpoint, and loaded."""

import logging
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from dist_train.checkpoint import serialization
from dist_train.checkpoint.schema import is_dense
from dist_train.checkpoint.serialization import list_differences, list_not_finite, shorten
from dist_train.checkpoint.store import find
from dist_train.errors import CheckpointError
from dist_train.models import rename_old_parameters
from dist_train.system.escape import escape
from dist_train.system.read_file import explain, open_regular

_log = logging.getLogger(__name__)
_WRAPPED = ("model_state_dict", "state_dict", "model", "net")
"""Keys under which dictionaries of other programs hold the weights."""
_FORMS = "weights are a state_dict, alone or as model_state_dict, state_dict or model in a dictionary"


def read_state_dict(path: str | Path, *, unsafe_pickle: bool = False) -> dict[str, Tensor]:
    """Read weights by their names, on the CPU.

    Args:
        path: a file of `torch.save` or of safetensors, a run's directory (its newest checkpoint), or a checkpoint; the
            average of `train.ema_decay` is `average.pt` in a checkpoint.
        unsafe_pickle: also read a file with pickled objects, such as a whole module. It may run any code.

    Raises:
        CheckpointError: it can't be read, or holds no weights.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return dict(serialization.load(find(path)).files["model.pt"])
        with open_regular(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's of old formats
            content = _read(file, path, unsafe_pickle)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{escape(path)}: can't be read: {explain(error)}") from error
    return find_weights(content, path)


def load_pretrained(
    network: nn.Module, state_dict: Mapping[str, Tensor], source: str | Path, new_head: str | None = None
) -> None:
    """Load weights of another training into a network; floats of another precision are converted.

    Args:
        state_dict: its names may have the prefixes of DistributedDataParallel and `torch.compile`.
        source: the file or reference of the weights, for messages.
        new_head: name of a layer that keeps its own weights.

    Raises:
        CheckpointError: they are of another network, each difference by its name, or not finite; the network stays
            unchanged.
    """
    own = network.state_dict()
    found = rename_old_parameters(network, _strip_prefixes(state_dict, own))
    if new_head is not None:
        kept = {name: value for name, value in own.items() if name.startswith(f"{new_head}.")}
        left = [name for name in found if name.startswith(f"{new_head}.")]
        found = {**{name: value for name, value in found.items() if name not in left}, **kept}
        _log.info("%s: not loaded, as %s is new: %s", escape(source), new_head, escape(", ".join(left) or "nothing"))
    if differences := list_differences(own, found, converts=True):
        is_quantized = any(name in own and _is_quantized(own[name], value) for name, value in found.items())
        advice = "; integers are quantized weights: give those of before" if is_quantized else ""
        raise CheckpointError(f"{escape(source)}: its weights are of another network: {shorten(differences)}{advice}")
    if broken := list_not_finite(found):
        raise CheckpointError(f"{escape(source)}: has values that are not finite: {shorten(broken)}")
    network.load_state_dict(found)


def _is_quantized(own: Tensor, value: Tensor) -> bool:
    return own.is_floating_point() and not (value.is_floating_point() or value.is_complex())


def _strip_prefixes(state_dict: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state_dict without the prefixes of wrappers, as far as the network has no such names itself."""
    found = {name.replace("_orig_mod.", ""): value for name, value in state_dict.items()}
    if "n_averaged" not in own:
        found.pop("n_averaged", None)  # of torch.optim.swa_utils.AveragedModel
    while found and all(name.startswith("module.") for name in found) and not own.keys() & found.keys():
        found = {name.removeprefix("module."): value for name, value in found.items()}
    return found


def _read(file: BinaryIO, path: Path, unsafe_pickle: bool) -> Any:
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    is_archive = file.read(4) == b"PK\x03\x04"
    file.seek(0)
    # An archive is mapped, so that a large file of another network is refused before it is read.
    source: Any = f"/proc/self/fd/{file.fileno()}" if is_archive else file
    try:
        return torch.load(source, map_location="cpu", weights_only=not unsafe_pickle, mmap=is_archive or None)
    except Exception as error:  # torch's reader raises whatever the bytes lead it to
        raise CheckpointError(f"{escape(path)}: {_explain_refusal(error, path)}") from error


def _explain_refusal(error: Exception, path: Path) -> str:
    """Return why torch does not load a file."""
    text = str(error) or repr(error)
    if found := re.search(r"GLOBAL (\S+)", text):
        return (
            f"holds pickled objects ({escape(found[1], 80)}), and not weights alone; reading it can run any code that "
            "is in it. If you trust where it comes from, take its weights out: dist-train export "
            f"{escape(path)} --format state_dict -o weights.pt --unsafe-pickle"
        )
    if "TorchScript" in text or "data.pkl" in text:
        return f"is a compiled or exported program; {_FORMS}"
    reason = f": {escape(text.partition('. ')[0].splitlines()[0], 200)}" if isinstance(error, RuntimeError) else ""
    return f"holds no weights that torch can read{reason}; is the file complete?"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise CheckpointError(f"{escape(path)}: needs the package safetensors; pip install safetensors") from error
    try:
        loaded: dict[str, Tensor] = load_file(path)
    except Exception as error:
        raise CheckpointError(f"{escape(path)}: does not load: {escape(error, 200)}") from error
    return loaded


def find_weights(content: Any, source: str | Path) -> dict[str, Tensor]:
    """Return the weights in what a file holds, or a function returned; raises CheckpointError if there are none."""
    if isinstance(content, dict):
        inner = (content[key] for key in _WRAPPED if isinstance(content.get(key), dict | nn.Module))
        content = next(inner, content)
    if isinstance(content, nn.Module):
        content = content.state_dict()
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{escape(source)}: holds {_describe(content)}; {_FORMS}")
    if odd := [f"{name} is {_describe(value)}" for name, value in content.items() if not _is_weight(name, value)]:
        raise CheckpointError(f"{escape(source)}: holds what is no weights: {escape(shorten(odd, 5), 600)}; {_FORMS}")
    return dict(content)


def _is_weight(name: object, value: object) -> bool:
    return isinstance(name, str) and is_dense(value)


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')} that is quantized, sparse or incomplete"
    return f"a {type(value).__name__}" if value or not isinstance(value, dict) else "nothing"
