"""Train a model as a settings file describes it.

    python -m dist_train configs/digits.yaml [key=value ...]                                       one process
    torchrun --nproc-per-node=4 --master-port=29500 -m dist_train configs/digits.yaml [key=value ...]   four ranks

The same command resumes a run that was stopped. Exit codes: 0 done; 1 a failure, with a traceback; 2 an error that you
can fix, with a message; 4 a loss or gradient that is not finite; 75 stopped by a signal or the time limit; 130
interrupted by a second Ctrl-C.
"""

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from dist_train.diagnostics.verdict import find_newest_checkpoint
from dist_train.errors import OwnImportError, RefusedElsewhereError, UserError
from dist_train.settings.loading.aliases import parse_with_aliases
from dist_train.system.cpu import LoadMeter, leave_busy_cores
from dist_train.system.environment import read_number
from dist_train.system.exit import FAILED, Parser, is_first_rank, leave, only_first_rank_reports, run_guarded
from dist_train.system.inherited_state import ignore_output_errors, prepare_error_stream
from dist_train.system.process import die_with_parent, without_garbage_collection
from dist_train.system.stop_signals import PREEMPTED, Stop

if TYPE_CHECKING:
    from dist_train.distributed.world import World
    from dist_train.run_dir import RunDir
    from dist_train.settings.schema import Config


def main(arguments: Sequence[str] | None = None, stop: Stop | None = None) -> int:
    """Train, or print the settings; returns the exit code."""
    meter = LoadMeter()
    with without_garbage_collection():
        from dist_train.run_dir import RunDir
        from dist_train.settings.loader import load_config, to_yaml

    with only_first_rank_reports():
        options = _parse(arguments)
        if options.settings:
            _print_settings()
            return 0
        config = load_config(options.config, options.overrides)
    if options.print_config:
        if is_first_rank():
            print(to_yaml(config), end="")
        return 0
    if options.print_groups:
        _print_groups(config)
        return 0
    ignore_output_errors()  # a run has its own log
    run = RunDir(config.run.dir)
    if ended := run.ended_before_restart():
        if is_first_rank():
            print(f"the run is {ended}: ranks that the launcher restarts exit as well", file=sys.stderr)
        return PREEMPTED if ended == "preempted" else FAILED
    if stop is not None:
        _configure_stop(stop, config, run)
    # torch is imported only now, so that a wrong key is reported in a fraction of the time.
    with without_garbage_collection():
        from dist_train.distributed.launcher import restart_may_hang
        from dist_train.distributed.rendezvous import describe_start
        from dist_train.distributed.world import open_world
        from dist_train.monitoring.console import log_to_terminal
        from dist_train.train import train
        from dist_train.training.fault_injection import inject_nan_inputs

    with only_first_rank_reports():
        ranks = read_number(os.environ, "LOCAL_WORLD_SIZE", 1)
        busy = leave_cores_to_others(config, meter, ranks)
        world = open_world(config.distributed, about=describe_start(config), deterministic=config.is_deterministic)
    log_to_terminal(world, sys.stdout)
    if world.is_main and restart_may_hang(os.environ):
        logging.getLogger("dist_train").warning(
            "a restart in place may hang: torchrun's store keeps the entries of lost ranks. Set "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before torchrun, or use dist-train train --max-restarts K"
        )
    if busy and world.is_main:
        logging.getLogger("dist_train").warning(busy)
    inject_nan_inputs()
    with _record_refusal(run):
        is_done = train(config, world, stop, _make_next_command(options, world))
    world.close()
    return 0 if is_done else PREEMPTED


def leave_cores_to_others(config: "Config", meter: LoadMeter, processes: int = 1) -> str | None:
    """Call `leave_busy_cores` if this start chooses the number of threads; return its warning, or None."""
    if config.is_deterministic or config.distributed.threads != "auto":
        return None
    is_new = config.run.resume == "never" or find_newest_checkpoint(Path(config.run.dir)) is None
    return leave_busy_cores(meter, processes) if is_new else None


def _print_settings() -> None:
    from dist_train.settings.documentation import format_documentation

    if is_first_rank():
        print(format_documentation())


def _print_groups(config: "Config") -> None:
    """Print the groups of the optimizer, for which data are opened and the network is built; raises UserError."""
    with without_garbage_collection():
        from dist_train.optim.groups import format_groups
        from dist_train.training.setup import open_network

    with only_first_rank_reports():
        text = format_groups(open_network(config).groups)
    if is_first_rank():
        print(text)


def _configure_stop(stop: Stop, config: "Config", run: "RunDir") -> None:
    if os.environ.get("RANK", "0") == "0":
        stop.on_early_stop = run.record_early_stop
    if config.run.time_limit_minutes is not None:
        stop.set_time_limit(config.run.time_limit_minutes)


@contextmanager
def _record_refusal(run: "RunDir") -> Iterator[None]:
    try:
        yield
    except RefusedElsewhereError:
        raise
    except (UserError, OwnImportError) as error:
        run.record_refusal(str(error))
        raise


def _make_next_command(options: argparse.Namespace, world: "World") -> str:
    """The command that resumes the run after a failure; `DIST_TRAIN_COMMAND` if a scheduler has set it."""
    if "DIST_TRAIN_COMMAND" in os.environ:
        return os.environ["DIST_TRAIN_COMMAND"]
    arguments = [options.config, *options.overrides]
    if world.size != world.local_size:
        return f"torchrun ... -m dist_train {shlex.join(arguments)} (as before, on each host)"
    restarts = read_number(os.environ, "TORCHELASTIC_MAX_RESTARTS", 0)
    return make_local_command(arguments, world.size if world.backend else None, restarts)


def make_local_command(arguments: Sequence[str], ranks: int | None, restarts: int) -> str:
    """The command that trains on this machine; `ranks` is None for a process without a launcher."""
    if "DIST_TRAIN_COMMAND" in os.environ:
        return os.environ["DIST_TRAIN_COMMAND"]
    words = ["dist-train", "train", *arguments, *(["--nproc", str(ranks)] if ranks else [])]
    return shlex.join([*words, *(["--max-restarts", str(restarts)] if restarts else [])])


def start(arguments: Sequence[str] | None = None) -> NoReturn:
    """Train in a process of its own: install the signal handlers first, train, and exit."""
    prepare_error_stream()
    os.environ["PYTHONSAFEPATH"] = "1"  # no file of the working directory replaces a module in other processes
    if "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_parent()
    stop = Stop.install()
    leave(run_guarded(lambda: main(arguments, stop)))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m dist_train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", nargs="?", help="settings file, e.g. configs/digits.yaml, or a recipe's name")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="settings that override the file")
    parser.add_argument("--print-config", action="store_true", help="print the resolved settings as YAML and exit")
    parser.add_argument(
        "--print-groups", action="store_true", help="print which parameters have which arguments of optim, and exit"
    )
    parser.add_argument("--settings", action="store_true", help="print every setting with its documentation and exit")
    options = parse_with_aliases(parser, arguments)
    if options.config is None and not options.settings:
        parser.error("a settings file is needed, e.g. configs/digits.yaml")
    return options


if __name__ == "__main__":
    start()
