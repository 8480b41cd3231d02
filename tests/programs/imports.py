"""Train as `python -m dist_train` does, or with `--nproc` as its agent, and write the modules that a rank has imported.

DIST_TRAIN_TEST_IMPORTS: a directory for `begun.R.json` and `stepped.R.json`: the modules of rank R before it trains,
and after its first step.
"""

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from dist_train import __main__
from dist_train.elastic import agent
from dist_train.system.exit import leave, run_guarded


def note(moment: str) -> None:
    place = Path(os.environ["DIST_TRAIN_TEST_IMPORTS"], f"{moment}.{os.environ.get('RANK', '0')}.json")
    if not place.exists():
        place.write_text(json.dumps(sorted(sys.modules)))


def noting(main: Any) -> Any:
    def noted(*given: Any) -> Any:
        note("begun")
        train: Any = import_module("dist_train.train")

        step = train.train_step

        def train_step(*given: Any, **named: Any) -> Any:
            done = step(*given, **named)
            note("stepped")
            return done

        train.train_step = train_step
        return main(*given)

    return noted


def main() -> None:
    if "--nproc" not in sys.argv:
        __main__.main = noting(__main__.main)
        __main__.start()
    from dist_train.elastic import rank_process

    setattr(rank_process, "train_main", noting(__main__.main))  # noqa: B010 (it is imported there)
    leave(run_guarded(agent.main))


if __name__ == "__main__":
    main()
