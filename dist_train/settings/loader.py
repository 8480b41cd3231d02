"""Read a settings file and `key=value` overrides strictly into a Config.

    file ─ YAML nodes ─┐
                       ├─> LocatedValue, values with their lines ─> all faults, or a Config
    key=value ─────────┘

`_load` calls the steps in order. Each step is a module in `loading/`.
"""

import os
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import yaml

from dist_train.errors import ConfigError
from dist_train.recipes import find_config, find_folder
from dist_train.settings.contradictions import find_contradictions
from dist_train.settings.loading.aliases import take_aliases
from dist_train.settings.loading.checks import check_loss_arguments, check_section
from dist_train.settings.loading.defaults import set_defaults
from dist_train.settings.loading.keys import expand_shorthands
from dist_train.settings.loading.old_settings import refuse_old_settings, translate_old_settings
from dist_train.settings.loading.overrides import apply_overrides, check_aliases
from dist_train.settings.loading.paths import expand_paths
from dist_train.settings.loading.references import resolve_references
from dist_train.settings.loading.strict_yaml import FLOAT, Fault, get_written, read_file
from dist_train.settings.schema import Config
from dist_train.settings.schema.section import Section
from dist_train.settings.tasks import find_task_contradictions
from dist_train.system.escape import escape
from dist_train.system.read_file import is_file

_S = TypeVar("_S", bound=Section)
MAX_FAULTS = 50
MAX_MESSAGE = 2000  # characters


def load_config(path: str | Path, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> Config:
    """Read the settings of a file, or of a recipe by its name, and of `key=value` overrides.

    The `config.yaml` of a run, next to its `run.lock`, may have keys and values of an earlier version.

    Args:
        environ: environment variables; default: those of the process.

    Raises:
        ConfigError: names every fault of both, one a line.
    """
    path = find_config(path)
    is_of_run = path.name == "config.yaml" and is_file(path.with_name("run.lock"))
    return _load(path, overrides, environ, is_of_run)


def load_run_config(
    path: str | Path, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> Config:
    """Read settings that this version or an earlier one has written; otherwise as `load_config`.

    Old keys and values are translated in the file, and refused in `overrides`.
    """
    return _load(Path(path), overrides, environ, is_of_run=True)


def _load(path: Path, overrides: Sequence[str], environ: Mapping[str, str] | None, is_of_run: bool) -> Config:
    root, faults = read_file(path)
    aliases, wrong = take_aliases(root)
    faults += [*wrong, *check_aliases(aliases)]
    expand_shorthands(root)
    if is_of_run:
        translate_old_settings(root)
    faults += refuse_old_settings(root)
    faults += apply_overrides(root, overrides, aliases)
    expand_shorthands(root)
    set_defaults(root, path.stem, os.environ if environ is None else environ)
    faults += islice(check_section((Config,), "", root), MAX_FAULTS + 1)
    faults += [] if faults else check_loss_arguments(root)
    faults += expand_paths(root, os.environ if environ is None else environ, is_of_run)
    if not is_of_run and not faults:
        faults += resolve_references(root, find_folder(path), os.environ if environ is None else environ)
    _raise_if_any(faults)
    config = Config.model_validate(root.to_plain())
    found = (*find_contradictions(config), *find_task_contradictions(config))
    _raise_if_any([Fault(get_written(root, key).location, f"{key} {message}") for key, message in found])
    return config


def load_section(path: str | Path, kind: type[_S]) -> _S:
    """Read a file that holds a single section.

    Raises:
        ConfigError: names every fault, one a line.
    """
    root, faults = read_file(Path(path))
    _raise_if_any(faults + list(islice(check_section((kind,), "", root), MAX_FAULTS + 1)))
    return kind.model_validate(root.to_plain())


def to_yaml(config: Config) -> str:
    """Return the resolved settings as YAML that loads as an equal Config."""
    return yaml.dump(config.model_dump(), Dumper=_Dumper, sort_keys=False, width=120)


def _raise_if_any(faults: list[Fault]) -> None:
    if faults:
        ordered = sorted(faults, key=lambda fault: fault.location.order)
        lines = [f"{fault.location.text}: {escape(fault.message, MAX_MESSAGE)}" for fault in ordered]
        more = ["and more of this kind"] if len(lines) > MAX_FAULTS else []
        raise ConfigError("\n".join(lines[:MAX_FAULTS] + more))


class _Dumper(yaml.SafeDumper):
    """Quotes text that `parse_scalar` or another YAML reader would read as something else; lists are on one line."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"^(?:{FLOAT.pattern})$"), None)
_Dumper.add_representer(
    tuple, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)
)
