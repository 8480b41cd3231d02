"""Start the ranks of a run on this machine, and start them anew in place when one is lost.

    python -m dist_train.elastic.agent --nproc 4 --max-restarts 3 configs/digits.yaml [key=value ...]

`dist-train train` runs this. It reads the settings before it imports torch, so that a wrong key is answered at
once, and imports what such a run needs before it forks the ranks (`forks`).
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dist_train.system.exit import Parser, leave, run_guarded
from dist_train.system.process import importing

if TYPE_CHECKING:
    from dist_train.settings.schema import Config


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the ranks to their end; returns the exit code of the run."""
    options = _parse(arguments)
    _prepare_environment()
    with importing():
        from dist_train.settings.loader import load_config

        _import_needed(load_config(options.config, options.overrides))
        from dist_train.elastic.forks import Agent, count_gpus
    ranks = count_gpus() if options.nproc == "auto" else int(options.nproc)
    agent = Agent(ranks, options.max_restarts, (options.config, *options.overrides))
    agent.run()
    return agent.exit_code


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m dist_train.elastic.agent",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="file of settings, e.g. configs/digits.yaml")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="settings that override the file's"
    )
    parser.add_argument("--nproc", default="auto", metavar="N|auto", help="number of ranks; auto: one a GPU")
    parser.add_argument("--max-restarts", type=int, default=0, metavar="K", help="how often ranks are started anew")
    return parser.parse_intermixed_args(arguments)


def _import_needed(config: "Config") -> None:
    """Import what every rank of such a run does; torch comes in here."""
    from dist_train.data import registry
    from dist_train.models import find_model

    registry.module_of(config.data)
    find_model(config.model.name)
    if config.train.compile != "off":
        import torch._dynamo  # noqa: F401


def _prepare_environment() -> None:
    """Set what all ranks inherit: they keep to this machine, and know that `Loopback` makes restarts safe."""
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ""  # the handlers are ours
    interface = "lo0" if sys.platform == "darwin" else "lo"
    os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # the other check makes CUDA unusable in a fork


if __name__ == "__main__":
    leave(run_guarded(main))
