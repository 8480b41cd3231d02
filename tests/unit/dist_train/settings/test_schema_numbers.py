"""Numbers of any size and spelling, for each setting that takes one: a value that it can hold, or a message."""

import math
from collections.abc import Iterator
from inspect import get_annotations
from typing import Any

import pytest

from dist_train.errors import ConfigError
from dist_train.settings.loading.messages import describe_type, list_choices
from dist_train.settings.schema import Config, flatten
from dist_train.settings.schema.section import Section, section_classes
from tests.unit.dist_train.settings.conftest import LEAST, Load

SPELLINGS = (
    *("0", "-0", "-1", "1", "+5", "1.", ".5", "1e3", "1e+5", "1E5", "1.0e5", "1e-400", "1e400", "-1e400", "1.5", "--5"),
    *("nan", "NaN", ".nan", "inf", "-inf", ".inf", "Infinity", "1_000", "0x10", "0o7", "0b1", "007", "1,000", "1/2"),
    *("true", "null", "", "1:30", "\u0663", "\uff11", "\u00b2", "[1]", "{a: 1}", "9" * 31, "9" * 5000, "1" + "0" * 400),
    *(str(sign * 2**bits + more) for sign in (1, -1) for bits in (31, 32, 53, 63, 64, 100) for more in (-1, 0, 1)),
    *("0." + "0" * 400 + "1", "1e308", "1e309", "5e-324", "1.7976931348623157e308"),
)
BOUND = 2**63


def list_numbers() -> list[tuple[str, str]]:
    """List the keys of all numeric settings, each with the override that makes it valid; an inherited one once."""
    found: dict[tuple[str, type[Section]], str] = {}
    for section, info in Config.model_fields.items():
        for kind in section_classes(info.annotation):
            names = list_choices(kind.model_fields["name"].annotation) if "name" in kind.model_fields else ()
            for key, owner in find_numbers(kind, section):
                found.setdefault((key, owner), f"{section}.name={names[0]}" if names else "")
    return [(key, name) for (key, _), name in found.items()]


def find_numbers(kind: type[Section], prefix: str) -> Iterator[tuple[str, type[Section]]]:
    """Yield the key of each number below a section, and the class that declares it."""
    for name, info in kind.model_fields.items():
        for inner in section_classes(info.annotation):
            yield from find_numbers(inner, f"{prefix}.{name}")
        if not section_classes(info.annotation) and "number" in describe_type(info.annotation, info.metadata):
            yield f"{prefix}.{name}", next(each for each in kind.__mro__ if name in get_annotations(each))


@pytest.mark.parametrize(("key", "name"), list_numbers())
def test_a_number_of_any_size_and_spelling(load: Load, key: str, name: str) -> None:
    needed = [name, *(["task=regression"] if name == "data.name=line" else [])] if name else []
    for text in SPELLINGS:
        found = load_or_refuse(load, *needed, f"{key}={text}")
        if isinstance(found, str):
            assert key.rpartition(".")[0] in found, (key, text)
            assert all(len(line) < 400 for line in found.splitlines()), (key, text)
        else:
            assert all(map(is_possible, as_list(flatten(found.model_dump())[key]))), (key, text)


def load_or_refuse(load: Load, *overrides: str) -> Config | str:
    try:
        return load(LEAST, *overrides)
    except ConfigError as error:
        return str(error)


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def is_possible(value: Any) -> bool:
    """Whether a value can be held by the types that programs use: 64 bits."""
    if type(value) is int:
        return -BOUND <= value < BOUND
    return value is None or isinstance(value, str | bool) or math.isfinite(value)
