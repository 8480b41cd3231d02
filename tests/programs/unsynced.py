"""Train, and let torch raise wherever the host waits for the GPU in a step of which nothing is printed.

    python tests/programs/unsynced.py CONFIG [key=value ...]

Prints how many steps were watched. Not watched are the first, in which memory is allocated and kernels are loaded, and
those after a save or an evaluation, which need all numbers of the steps before.
"""

import sys

import torch

from dist_train.distributed.world import open_world
from dist_train.settings.loader import load_config
from dist_train.settings.schema import Distributed
from dist_train.system.exit import leave, run_guarded
from dist_train.train import train
from dist_train.training.reporter import MainReporter

WARM = 4
_count_step = MainReporter.count_step
_watched: list[int] = []


def main() -> None:
    name, *overrides = sys.argv[1:]
    config = load_config(name, overrides)
    world = open_world(config.distributed if config.distributed.backend == "gloo" else Distributed())
    assert_it_would_raise()
    MainReporter.count_step = count_step  # type: ignore[method-assign]
    train(config, world)
    print(f"watched {len(_watched)} steps")
    world.close()


def assert_it_would_raise() -> None:
    """Torch says of this mode that it may overlook something; of this it must not."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.ones((), device="cuda").item()
    except RuntimeError:
        return
    finally:
        torch.cuda.set_sync_debug_mode("default")
    raise AssertionError("a read of one number was no synchronisation")


def count_step(self: MainReporter) -> None:
    """In place of `MainReporter.count_step`, which is called after each step, before what is due after it."""
    _count_step(self)
    step, schedule = self._state.step, self._schedule
    is_due = schedule.is_saved(step) or schedule.is_evaluated(step) or step == schedule.total_steps
    is_watched = step >= WARM and not is_due
    torch.cuda.set_sync_debug_mode("error" if is_watched else "default")
    if is_watched:
        _watched.append(step + 1)


if __name__ == "__main__":
    leave(run_guarded(main))
