"""Do several jobs one after the other in one world, which saves starting Python and torch for each.

    torchrun ... tests/programs/runs.py JOBS.json [auto]        (or plain python, for a world of one)

On the CPU; with `auto` on a GPU, where there is one. Leaves the number of graphs that torch has compiled for a run in
its `compiled_graphs`.

JOBS.json: a list of {"train": [config, overrides...], "dtype": "float64"?, "normalised": true?} and of
{"cut": run, "to": run, "step": n}, which leaves a run as a kill right after the save of that step would have.
"""

import json
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from dist_train.distributed.world import World, open_world
from dist_train.settings.loader import load_config
from dist_train.settings.schema import Distributed
from dist_train.system.exit import leave, run_guarded
from dist_train.train import train
from tests.programs.normalised import put_batch_normalisation_first


def cut(source: Path, target: Path, step: int) -> None:
    """Copy a run without its checkpoints after `step`; the lines of metrics beyond it stay, as after a kill."""
    shutil.copytree(source, target, symlinks=True)
    for place in (target / "checkpoints").glob("step_*"):
        if int(place.name.removeprefix("step_")) > step:
            shutil.rmtree(place)
    for link in (target / "checkpoints").iterdir():
        if link.is_symlink() and not link.exists():
            link.unlink()


def do(job: dict[str, Any], world: World) -> None:
    if "cut" in job:
        if world.is_main:
            cut(Path(job["cut"]), Path(job["to"]), job["step"])
        world.barrier()
        return
    torch.set_default_dtype(getattr(torch, job.get("dtype", "float32")))
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
    name, *overrides = job["train"]
    config = load_config(name, overrides)
    with put_batch_normalisation_first() if job.get("normalised") else nullcontext():
        train(config, world)
    if world.is_main:
        is_compiled = "torch._dynamo" in sys.modules  # which takes seconds to import, so this does not
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"] if is_compiled else 0
        (Path(config.run.dir) / "compiled_graphs").write_text(str(graphs))


def main() -> None:
    world = open_world(Distributed(backend="auto" if "auto" in sys.argv[2:] else "gloo"))
    for job in json.loads(Path(sys.argv[1]).read_text()):
        do(job, world)
    world.close()


if __name__ == "__main__":
    leave(run_guarded(main))
