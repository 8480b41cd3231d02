"""Any input is accepted or refused with a message, and what is written loads as an equal Config."""

from collections.abc import Sequence
from math import isfinite
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from dist_train.errors import ConfigError
from dist_train.settings.loader import to_yaml
from dist_train.settings.schema import Config, LineData, TableData, list_keys
from dist_train.settings.schema.optim import SCHEDULE_SETTINGS
from dist_train.settings.schema.section import Section, Words, section_classes
from tests.unit.dist_train.settings.conftest import LEAST, Load

slow_machine = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

FRAGMENTS = [
    "a",
    "data",
    "name",
    "lr",
    ":",
    ": ",
    "\n",
    "  ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    ",",
    "'",
    '"',
    "&a ",
    "*a",
    "!!x ",
]
FRAGMENTS += [
    "#",
    "|",
    ">",
    "?",
    "%",
    "---",
    "...",
    "~",
    "\t",
    "1",
    "3e-4",
    "\\",
    "\\U00110000",
    "%YAML 1.1",
    "\0",
    "é",
]


def taken_or_refused(load: Load, content: str | bytes, *overrides: str) -> None:
    try:
        load(content, *overrides)
    except ConfigError as error:
        assert str(error).isprintable() or "\n" in str(error)  # noqa: PT017  a Config is fine as well
        assert "pydantic" not in str(error) or "pydantic" in str((content, overrides))  # noqa: PT017


@slow_machine
@given(content=st.binary() | st.text() | st.lists(st.sampled_from(FRAGMENTS)).map("".join))
@example(content="%YAML " + "9" * 5000 + ".1\n")
def test_any_file_is_taken_or_refused(load: Load, content: str | bytes) -> None:
    taken_or_refused(load, content)


keys = st.sampled_from([part for key in list_keys((Config,)) for part in key.split(".")]) | st.text(max_size=3)
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from(["adam", "on"])
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4))
nested = st.dictionaries(
    st.sampled_from([*Config.model_fields]) | keys, st.dictionaries(keys, values) | values, max_size=5
)


@slow_machine
@given(tree=nested)
def test_any_tree_of_settings_is_taken_or_refused(load: Load, tree: dict[str, Any]) -> None:
    taken_or_refused(load, yaml.safe_dump(tree))


any_override = st.text() | st.builds(
    "{}={}".format,
    st.sampled_from(list_keys((Config,))) | st.text(),
    st.text() | st.lists(st.sampled_from(FRAGMENTS), max_size=6).map("".join) | values.map(str),
)


@slow_machine
@given(overrides=st.lists(any_override, max_size=3))
def test_any_command_line_is_taken_or_refused(load: Load, overrides: list[str]) -> None:
    taken_or_refused(load, LEAST, *overrides)


DEPENDENT = {
    "shards",
    "schedule",
    *SCHEDULE_SETTINGS,
    "plateau",
    "early_stopping",
    "nesterov",
    "num_classes",
    "sync_batchnorm",
    "compression",
    "compile_mode",
    "metrics",
    "monitor",
    "args",
    "init",
    "unfreeze",
}


arguments = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(-1e9, 1e9) | st.sampled_from(["on", "1.0e4"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
    max_leaves=5,
)


def allowed(annotation: Any, metadata: Sequence[Any] = ()) -> st.SearchStrategy[Any]:
    """Values that an annotation of the settings allows."""
    parts, origin = get_args(annotation), get_origin(annotation)
    if origin is dict:
        return st.dictionaries(st.from_regex(r"\A[a-z_]{1,9}\Z"), arguments, max_size=3)
    if any(isinstance(each, Words) for each in metadata) and not section_classes(annotation):
        return st.sampled_from(["collections.abc:Mapping", "collections.abc:Sized"])  # whose arguments no source shows
    if origin is Annotated:
        return allowed(parts[0], () if get_origin(parts[0]) is dict else parts[1:])
    if origin is Literal:
        return st.sampled_from(parts)
    if origin in (Union, UnionType):
        return st.one_of(*(allowed(part) for part in parts if part not in (LineData, TableData)))  # they need a task
    if origin is tuple:
        return st.tuples(*map(allowed, [parts[0]] * 3 if Ellipsis in parts else parts))
    return allowed_section(annotation) if issubclass(annotation, Section) else allowed_scalar(annotation, metadata)


def allowed_section(section: type[Section]) -> st.SearchStrategy[Section]:
    """Settings of this section, without those that contradict others as a rule."""
    fields = {name: info for name, info in section.model_fields.items() if name not in DEPENDENT}
    strategies = {name: allowed(info.annotation, info.metadata) for name, info in fields.items()}
    required = {name: strategy for name, strategy in strategies.items() if fields[name].is_required()}
    others = {name: strategy for name, strategy in strategies.items() if name not in required}
    return st.fixed_dictionaries(required, optional=others).map(section.model_validate)


def allowed_scalar(kind: type, metadata: Sequence[Any]) -> st.SearchStrategy[Any]:
    limit = limits(metadata)
    low, high = limit.get("ge", limit.get("gt")), limit.get("le", limit.get("lt"))
    if kind is int:
        return st.integers(low, 10**29 if high is None else high - ("lt" in limit))
    if kind is float:
        numbers = st.floats(low, high, exclude_min="gt" in limit, exclude_max="lt" in limit, allow_nan=False)
        return numbers.filter(isfinite)
    if kind is str:
        return st.from_regex(limit["pattern"].replace("^", r"\A").replace("$", r"\Z")) if "pattern" in limit else paths
    return st.booleans() if kind is bool else st.none()


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
paths = (texts | st.sampled_from(["on", "1.0e4", "0.1", "null", "12:30:00"])).filter(
    lambda text: text[0] != "~" and "$" not in text and "://" not in text
)


def limits(metadata: Sequence[Any]) -> dict[str, Any]:
    checks = [check for item in metadata for check in (item.metadata if isinstance(item, FieldInfo) else [item])]
    keys = ("ge", "gt", "le", "lt", "pattern")
    return {key: getattr(check, key) for check in checks for key in keys if getattr(check, key, None) is not None}


@slow_machine
@given(config=allowed_section(Config))
def test_written_settings_load_as_they_were(load: Load, config: Config) -> None:
    if config.train.epochs is None and config.train.max_steps is None:
        config = config.model_copy(update={"train": config.train.model_copy(update={"epochs": 10})})
    assert load(to_yaml(config)) == config


@pytest.mark.parametrize(
    "overrides",
    [
        ["optim.schedule=multistep", "optim.milestones=[3, 4e1]", "optim.gamma=1e-2"],
        ["optim.schedule=onecycle", "optim.pct_start=0.1", "optim.final_div_factor=1e20"],
        ["optim.nesterov=true", "optim.momentum=0.9", "train.sync_batchnorm=true"],
        ["train.compile=model", "train.compile_mode=max-autotune"],
        ["data.num_classes=3", "model.num_classes=3", "train.epochs=null", "train.max_steps=1"],
    ],
)
def test_dependent_settings_load_as_they_were(load: Load, overrides: list[str]) -> None:
    config = load(LEAST, *overrides)
    assert config != load(LEAST)
    assert load(to_yaml(config)) == config
