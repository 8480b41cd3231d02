"""The time to the first step, and what is imported."""

import json
from pathlib import Path

import pytest

from benchmarks.compare.measures import start
from benchmarks.compare.session import OurRun
from benchmarks.processes import Outcome


def test_imports_are_added_up_by_package() -> None:
    text = (
        "import time: self [us] | cumulative | imported package\n"
        "import time:      1000 |       1000 |     torch._dynamo.config\n"
        "import time:      2000 |       3000 |   torch\n"
        "step 1 of 1\n"
        "import time:       500 |        500 | torchvisionary\n"
        "import time:       250 |        250 | dist_train.settings.schema\n"
    )
    expected = {"torch._dynamo": 0.001, "torch": 0.002, "others": 0.0005, "dist_train": 0.00025}
    assert start.by_package(text) == pytest.approx(expected)


def test_a_start_is_until_the_line_of_the_first_step(tmp_path: Path) -> None:
    lines = [
        {"kind": "train", "step": 1, "time": 103.0}, {"kind": "eval", "step": 1, "time": 104.0},
        {"kind": "train", "step": 2, "time": 109.0},
    ]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ours = OurRun(Outcome(100.0, 20.0, 0.0, 0, 0, ""), tmp_path)
    assert start.first_step(ours).value == 3.0
    assert start.first_step(ours, step=2).value == 9.0
