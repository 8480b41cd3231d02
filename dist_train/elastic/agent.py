"""Start the ranks of a run on this machine, and restart them in place when one is lost.

    python -m dist_train.elastic.agent --nproc 4 --max-restarts 3 configs/digits.yaml [key=value ...]

`dist-train train` runs this. It reads the settings before it imports torch, so that a wrong key is reported at once,
and imports what the run needs before it forks the ranks.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dist_train.__main__ import leave_cores_to_others
from dist_train.settings.loading.aliases import parse_with_aliases
from dist_train.system.cpu import LoadMeter
from dist_train.system.exit import Parser, leave, run_guarded
from dist_train.system.inherited_state import prepare_streams
from dist_train.system.process import without_garbage_collection

if TYPE_CHECKING:
    from dist_train.settings.schema import Config


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the ranks to their end; returns the exit code of the run."""
    options, meter = _parse(arguments), LoadMeter()
    _set_environment()
    with without_garbage_collection():
        from dist_train.settings.loader import load_config

        config = load_config(options.config, options.overrides)
        _import_modules(config)
        from dist_train.elastic.forking_agent import ForkingAgent, count_gpus
    ranks = count_gpus() if options.nproc == "auto" else int(options.nproc)
    if busy := leave_cores_to_others(config, meter):
        print(f"warning: {busy}", flush=True)
    arguments = (options.config, *options.overrides)
    agent = ForkingAgent(ranks, options.max_restarts, arguments, Path(config.run.dir))
    agent.run()
    return agent.exit_code


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m dist_train.elastic.agent",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="settings file, e.g. configs/digits.yaml, or a recipe's name")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="settings that override the file")
    parser.add_argument("--nproc", default="auto", metavar="N|auto", help="number of ranks; auto: one per GPU")
    parser.add_argument(
        "--max-restarts", type=int, default=0, metavar="K", help="how often the ranks are restarted when one is lost"
    )
    return parse_with_aliases(parser, arguments)


def _import_modules(config: "Config") -> None:
    """Import what every rank of this run needs, torch included."""
    import numpy.random  # noqa: F401

    import dist_train.monitoring.console
    import dist_train.train
    import dist_train.training.fault_injection  # noqa: F401
    from dist_train.data import registry
    from dist_train.models import import_library
    from dist_train.settings.schema import ImageData

    if isinstance(config.data, ImageData):
        registry.import_module_of(config.data)
    import_library(config.model)
    if config.train.compile != "off":
        import torch._dynamo  # noqa: F401


def _set_environment() -> None:
    """Set the variables that all ranks inherit, so that the agent handles signals and a fork can use CUDA."""
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ""  # ForkingAgent has handlers of its own
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # the other check makes CUDA unusable in a fork


if __name__ == "__main__":
    prepare_streams()
    leave(run_guarded(main))
