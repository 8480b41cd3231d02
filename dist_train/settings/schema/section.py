"""The base class of all sections of the settings, and the types of their values."""

import os
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
)
from pydantic_core import CoreSchema, core_schema

from dist_train.own_code.reference import FORMS, parse_reference


def _check_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("is not text")
    os.fsencode(value)
    return value


def _check_reference(value: Any) -> str:
    if parse_reference(_check_text(value)) is None:
        raise ValueError("is no reference")
    return str(value)


def _check_arguments(value: Any, depth: int = 0) -> Any:
    """Return arguments with lists for sequences; everything that YAML can express is allowed."""
    if depth > 20:
        raise ValueError("is nested too deeply")
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("has a key that is not text")
        return {key: _check_arguments(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_check_arguments(inner, depth + 1) for inner in value]
    if value is not None and not isinstance(value, bool | int | float | str):
        raise ValueError("is no value of YAML")
    return value


Auto = Literal["auto"]
# Pydantic's own check of text refuses file names that are not UTF-8.
FileName = Annotated[str, PlainValidator(_check_text), Field(min_length=1)]


@dataclass(frozen=True)
class Words:
    """Describes in messages what a setting may be."""

    text: str


Reference = Annotated[str, PlainValidator(_check_reference), Words(f"a reference to code of your own, {FORMS}")]
"""A name in the user's code: `path/to/file.py:Name` or `package.module:Name`."""
Arguments = Annotated[dict[str, Any], BeforeValidator(_check_arguments), Words("a mapping of arguments")]
"""Arguments for code that a name or a reference leads to."""
NO_ARGUMENTS: dict[str, Any] = {}
PositiveInt = Annotated[int, Field(ge=1, le=10**9)]
SideLength = Annotated[int, Field(ge=1, le=10**4)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A part of the settings; instances are immutable."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        defer_build=True,  # a start needs a part of all sections
    )
    shown_name: ClassVar[str] = "a reference"
    """What messages show for the names of a section that has more names than can be listed."""


def section_classes(annotation: Any) -> tuple[type[Section], ...]:
    """Return the classes of a section: `Config.model_fields["optim"].annotation` has one per optimizer."""
    if isinstance(annotation, type):
        return (annotation,) if issubclass(annotation, Section) else ()
    parts = () if get_origin(annotation) is tuple else get_args(annotation)
    return tuple(found for part in parts for found in section_classes(part))


class ByName:
    """Annotates the classes that a section may have: only the one that its `name` selects is prepared for checks.

    pydantic would prepare all of them at each start, which takes several times as long.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(partial(_check_by_name, section_classes(source)))


def _check_by_name(classes: tuple[type[Section], ...], value: Any) -> Section:
    if isinstance(value, classes):
        return value
    if not isinstance(value, dict):
        raise ValueError("is no section")
    fitting = [section for section in classes if _takes_name(section, value.get("name"))]
    if not fitting:
        raise ValueError("has a name that there is not")
    for section in fitting[:-1]:
        with suppress(ValidationError):
            return section.model_validate(value)
    return fitting[-1].model_validate(value)


def _takes_name(section: type[Section], name: Any) -> bool:
    """Whether a section may have this name; sections for the user's code have no fixed names."""
    names = get_args(section.model_fields["name"].annotation)
    return not names or name in names


def item_classes(annotation: Any) -> tuple[type[Section], ...]:
    """Return the classes of the sections in a list, such as `optim.groups`."""
    parts = get_args(annotation) if get_origin(annotation) is tuple else ()
    return tuple(found for part in parts for found in section_classes(part))


class Contradiction(NamedTuple):
    """A setting that does not fit another one, and the message about it."""

    key: str
    message: str
