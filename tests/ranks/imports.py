"""Trains as `python -m dist_train` or its agent does, and writes which modules a rank has imported until the end of
its first step.

DIST_TRAIN_TEST_IMPORTS: a directory, for a file `R.json` of rank R and the modules that it had before it trained.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from dist_train import __main__, agent
from dist_train.entry import leave, run_guarded


def note(what: str) -> None:
    place = Path(os.environ["DIST_TRAIN_TEST_IMPORTS"], f"{what}.{os.environ.get('RANK', '0')}.json")
    if not place.exists():
        place.write_text(json.dumps(sorted(sys.modules)))


def noted(main: Any) -> Any:
    def train(*arguments: Any) -> Any:
        from dist_train import train as story

        note("before")
        step = story.train_step

        def train_step(*arguments: Any) -> Any:
            done = step(*arguments)
            note("first")
            return done

        story.train_step = train_step
        return main(*arguments)

    return train


if __name__ == "__main__":
    if "--nproc" in sys.argv:
        from dist_train import forks

        forks.train_main = noted(forks.train_main)
        leave(run_guarded(agent.main))
    __main__.main = noted(__main__.main)
    __main__.start()
