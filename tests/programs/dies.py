"""`python -m dist_train.elastic.agent` in which one rank, or each, dies in a phase that a test chooses.

DIST_TRAIN_TEST_DEATH: a JSON object {"phase": a name of PHASES, "way": a name of WAYS, "rank": which, -1 being all}.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from dist_train.checkpoint.store import Store
from dist_train.distributed import world
from dist_train.elastic import agent, rank_process
from dist_train.system.exit import leave, run_guarded
from dist_train.system.inherited_state import prepare_streams
from dist_train.training import setup
from dist_train.training.run import TrainingRun
from tests.modules import evaluate, train

DEATH: dict[str, Any] = json.loads(os.environ["DIST_TRAIN_TEST_DEATH"])


def fail() -> None:
    raise ValueError("a fault")


WAYS: dict[str, Callable[[], Any]] = {
    **{name: partial(signal.raise_signal, signal.Signals[name]) for name in ("SIGKILL", "SIGSEGV", "SIGABRT")},
    **{f"os._exit({code})": partial(os._exit, code) for code in (0, 1, 77)},
    **{f"sys.exit({code})": partial(sys.exit, code) for code in (0, 3)},
    "exception": fail,
}
PHASES: dict[str, tuple[Any, str]] = {
    "start of a rank": (rank_process, "train_main"),
    "joining": (world, "open_world"),
    "opening": (setup, "_build_reduction"),
    "first step": (train, "train_step"),
    "evaluation": (evaluate, "compute_output"),
    "save": (Store, "_write"),
    "end": (TrainingRun, "finish"),
    "exit": (world.World, "close"),
}


def dying(original: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        if DEATH["rank"] in (-1, int(os.environ["RANK"])):
            WAYS[DEATH["way"]]()
        return original(*arguments, **named)

    return call


if __name__ == "__main__":
    prepare_streams()
    torch.set_num_threads(1)
    owner, name = PHASES[DEATH["phase"]]
    setattr(owner, name, dying(getattr(owner, name)))
    leave(run_guarded(agent.main))
