"""What `training.pt` holds: keys, types and ranges, checked as a whole before any of it is used."""

from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from torch import Tensor

from dist_train.data.identity import DataIdentity
from dist_train.errors import CheckpointError
from dist_train.system.escape import escape

DEEPEST = 20
"""Levels of nested settings, and of the state of a callback."""
_LARGEST = 2**53
_HUGE = 1e300
_RENAMED = {"best_accuracy": "best_value"}


def _check_plain(value: Any, depth: int = 0) -> Any:
    """Return a value that JSON can hold; raises ValueError for any other."""
    if depth > DEEPEST:
        raise ValueError("is nested too deeply")
    if isinstance(value, dict):
        if not all(type(key) is str for key in value):
            raise ValueError("has keys that are not text")
        for each in value.values():
            _check_plain(each, depth + 1)
    elif isinstance(value, list | tuple):
        for each in value:
            _check_plain(each, depth + 1)
    elif type(value) is int and abs(value) > _LARGEST:
        raise ValueError("has a number that is too large")
    elif value is not None and type(value) not in (bool, int, float, str):
        raise ValueError(f"has a {type(value).__name__}, which no setting is")
    return value


def _check_number(value: Any) -> Any:
    """Return a number; a tensor is one for pydantic too."""
    if type(value) not in (int, float) or abs(value) > _HUGE:
        raise ValueError("must be a number")
    return value


def _check_state(value: Any) -> Any:
    """Return a value of an optimizer's state; whether it fits the parameters is checked when it is loaded."""
    if isinstance(value, dict | list | tuple):  # the user's optimizer may keep anything
        for each in value.values() if isinstance(value, dict) else value:
            _check_state(each)
    elif isinstance(value, Tensor) and not is_dense(value):
        raise ValueError("must be a tensor with all its values")
    elif not isinstance(value, Tensor | str | bool) and value is not None:
        _check_number(value)
    return value


def _check_callback_state(value: Any, depth: int = 0) -> Any:
    """Return the state of a callback, nested lists and dictionaries of plain values and tensors."""
    if depth > DEEPEST:
        raise ValueError("is nested too deeply")
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            _check_callback_state(each, depth + 1)
    elif isinstance(value, Tensor) and not is_dense(value):
        raise ValueError("must be a tensor with all its values")
    return value


def is_dense(value: object) -> bool:
    """Whether a value is a tensor whose values are all stored: not sparse, quantized, expanded or on no device."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized or value.is_meta:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _check_data(value: dict[str, Any]) -> dict[str, Any]:
    """Return the description of the data; raises ValueError if it is none."""
    try:
        shape = DataIdentity.from_dict(value).shape
    except ValueError as error:
        raise ValueError(str(error).splitlines()[0]) from error
    if shape and not all(1 <= number <= 2**16 for number in shape):
        raise ValueError("has a shape that no image has")
    return value


_Number = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_check_number)]
_Count = Annotated[int, Field(ge=0, le=_LARGEST)]
_Plain = Annotated[dict[str, Any], AfterValidator(_check_plain)]


class _Strict(BaseModel):
    """No value is converted; keys of newer versions pass."""

    model_config = ConfigDict(strict=True, extra="allow", hide_input_in_errors=True, defer_build=True)


class _Window(_Strict):
    loss_sum: _Number
    samples: _Count


class _Scaler(_Strict):
    scale: Annotated[_Number, Field(gt=0)]
    growth_factor: Annotated[_Number, Field(gt=1)]
    backoff_factor: Annotated[_Number, Field(gt=0, lt=1)]
    growth_interval: Annotated[int, Field(ge=1, le=_LARGEST)]
    growth_tracker: _Count = Field(alias="_growth_tracker")


class _AutoSettings(_Strict):
    precision: Literal["fp32", "tf32", "bf16", "fp16"]
    channels_last: bool
    threads: Annotated[int, Field(ge=1, le=4096)]
    local_size: Annotated[int, Field(ge=1, le=2**20)]
    onednn: bool = True
    shared_memory: bool = False
    sync_batchnorm: bool = False


class _Group(_Strict):
    params: list[_Count]
    param_names: list[str] = []


class _Optimizer(_Strict):
    state: dict[int, dict[str, Annotated[Any, AfterValidator(_check_state)]]]
    param_groups: list[_Group]


class _Callback(_Strict):
    name: str
    state: Annotated[Any, AfterValidator(_check_callback_state)]


class _BestOf(_Strict):
    name: str
    mode: Literal["max", "min"]
    split: str
    number: str = ""


class _Training(_Strict):
    epoch: _Count
    step: _Count
    optimizer_state_dict: _Optimizer
    scaler_state_dict: _Scaler | None
    loss: _Number | None
    window: _Window
    best_value: _Number | None
    best_step: _Count | None
    best_of: _BestOf | None = None
    evaluated_step: _Count
    evaluations: list[float] = []
    callbacks: list[_Callback] = []
    settings: _Plain
    choices: _AutoSettings
    code: dict[str, str] = {}
    """SHA-256 of each file of the user's code."""
    machine: _Plain
    data: Annotated[_Plain, AfterValidator(_check_data)] | None = None


def check_training(content: dict[str, Any]) -> None:
    """Check the content of `training.pt`, after keys of earlier versions are renamed.

    Raises:
        CheckpointError: a key is missing or has a value that no version has written; all such are named.
    """
    for before, now in _RENAMED.items():
        if before in content:
            content.setdefault(now, content.pop(before))
    try:
        _Training.model_validate(content)
    except ValidationError as error:
        found = [f"  {_describe(each['loc'], each['msg'])}" for each in error.errors(include_url=False)]
        more = [f"  and {len(found) - 10} more"] if len(found) > 10 else []
        raise CheckpointError(
            "training.pt: was not written by this program, or was changed:\n" + "\n".join(found[:10] + more) + "\n"
            "Start from another checkpoint, or at step 0 with run.resume=never"
        ) from error


def _describe(location: tuple[int | str, ...], message: str) -> str:
    """`window.samples: Input should be ...`, for a value by its keys."""
    return escape(f"{'.'.join(map(str, location))}: {message.removeprefix('Value error, ')}", 300)
