"""`dist-train plot` finds the runs that are meant, labels them, and never imports torch for curves."""

import json
from pathlib import Path

import pytest

from launch.cli import main
from launch.commands.results import plot
from tests.conftest import Python


def make_run(path: Path, count: int = 3) -> Path:
    path.mkdir(parents=True)
    (path / "status.json").write_text("{}")
    train = '{"kind": "train", "step": %d, "epoch": 0, "loss": 0.5, "lr": 0.1, "samples_per_second": 9.0, "time": 1}\n'
    (path / "metrics.jsonl").write_text("".join(train % step for step in range(1, count + 1)))
    return path


def test_runs_sweeps_and_folders_are_found_with_labels_that_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("runs/a", "other/a", "runs/b", "runs/s.sweep/0-lr=1", "runs/s.sweep/1-lr=2"):
        make_run(Path(path))
    trials = [
        {"number": number, "overrides": [f"optim.lr={number}"], "dir": f"x/{number}-lr={number + 1}"}
        for number in range(3)
    ]
    content = {"config": "c.yaml", "overrides": [], "axes": {}, "trials": trials}
    Path("runs/s.sweep/sweep.json").write_text(json.dumps(content))
    assert plot._find_labelled(["runs/a", "runs/b"]) == [("a", Path("runs/a")), ("b", Path("runs/b"))]
    assert plot._find_labelled(["runs/a", "other/a"]) == [("runs/a", Path("runs/a")), ("other/a", Path("other/a"))]
    of_sweep = plot._find_labelled(["runs/s.sweep"])
    assert [label for label, _ in of_sweep] == ["optim.lr=0", "optim.lr=1"]
    assert [label for label, _ in plot._find_labelled(["runs"])] == ["a", "b", "0-lr=1", "1-lr=2"]
    assert main(["plot", "runs", "--numbers", "loss"]) == 0
    assert Path("curves.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nothing"], "nothing: is not a run: it has no metrics.jsonl; give a directory below runs/"),
        (["run/status.json"], "run/status.json: is not a run: it has no metrics.jsonl"),
        (["loop"], "loop/metrics.jsonl: can't be read: Too many levels of symbolic links"),
        (["empty"], "empty: there is nothing to draw yet"),
        (["run", "--numbers", "speed"], "--numbers speed: no run has it; they have loss, lr, samples_per_second"),
        (["run", "-o", "a.jpg"], "-o a.jpg: the name must end in .png, .svg or .pdf"),
        (["run", "-o", "no/a.png"], "-o no/a.png: can't be written: No such file or directory"),
        ([], "the following arguments are required: RUN|SWEEP"),
    ],
)
def test_what_can_not_be_drawn_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    problem: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(Path("run"))
    make_run(Path("empty"), 0)
    Path("loop").symlink_to("loop")
    assert main(["plot", *arguments]) == 2
    assert problem in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "loop", "run"]


def test_a_hundred_thousand_steps_are_thinned_and_drawn_without_torch(tmp_path: Path, interpreter: Python) -> None:
    run = make_run(tmp_path / "run", 100_000)
    program = (
        "import sys; from launch.cli import main; code = main(sys.argv[1:]); "
        "print('torch' in sys.modules, 'matplotlib.pyplot' in sys.modules); sys.exit(code)"
    )
    done = interpreter("-W", "error", "-c", program, "plot", str(run), "-o", str(tmp_path / "a.svg"))
    assert (done.returncode, done.stderr, done.stdout.splitlines()[-1]) == (0, "", "False False")
    assert (tmp_path / "a.svg").stat().st_size < 500_000  # each point takes some ten bytes
