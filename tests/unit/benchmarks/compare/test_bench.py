"""The command of the bench."""

import re
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.compare import bench
from benchmarks.compare.report import BEGIN, END, with_part
from benchmarks.compare.results import newest, read
from benchmarks.rounds import (
    RoundsResult,
    Task,
)
from dist_train.errors import UserError
from tests.conftest import ROOT, Python
from tests.unit.benchmarks.records import make_record, write_results


def test_the_readme_shows_the_newest_results() -> None:
    text = bench.README.read_text(encoding="utf-8")
    path = newest()
    assert path is not None
    assert bench.part_of(path) in text, "run python -m benchmarks.compare.bench --update-readme"


def test_the_tables_are_written_between_the_marks(tmp_path: Path) -> None:
    path = write_results(tmp_path, "machine")
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN} old {END}\nafter\n")
    bench.update_readme(readme, tmp_path)
    text = readme.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert "2,000 (2.00 x)" in text
    assert bench.part_of(path) in text
    write_results(tmp_path, "machine", commit="def")
    assert bench.part_of(path) not in text


def test_updating_needs_marks_and_results(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no results of a full session"):
        bench.update_readme(tmp_path / "README.md", tmp_path)
    write_results(tmp_path, "machine")
    (tmp_path / "README.md").write_text("text\n")
    with pytest.raises(UserError, match=f"no {BEGIN} and {END}"):
        bench.update_readme(tmp_path / "README.md", tmp_path)
    with pytest.raises(ValueError, match="no <!-- bench -->"):
        with_part(f"{END} {BEGIN}", "part")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for folder in ("MNIST/raw", "cifar-10-batches-py"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setenv("DIST_TRAIN_DATA", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["bench", "--device", "cuda", "--ranks", "1"])
    with pytest.raises(UserError, match="there are 0 GPUs for --ranks 1"):
        bench.main()


@pytest.mark.parametrize(
    ("asked", "is_cut", "is_part"),
    [
        ([], False, False),
        (["--quick", "--ranks", "2", "1"], False, False),
        (["--workloads", "mnist"], False, True),
        (["--measures", "start"], False, True),
        (["--ranks", "1"], False, True),
        (["--names", "ours"], False, True),
        (["--before", str(ROOT), "--no-peers"], False, True),
        (["--before", str(ROOT)], False, False),
        ([], True, True),
    ],
)
def test_a_session_knows_whether_it_is_a_part(
    asked: list[str], is_cut: bool, is_part: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench, "_check_data", lambda: None)
    monkeypatch.setattr(bench, "peers_python", lambda: Path(sys.executable))
    monkeypatch.setattr(bench, "_fill_cache", lambda _: None)

    def run_rounds(tasks: list[Task], rounds: int, *_: object) -> RoundsResult:
        return RoundsResult(
            [make_record(case, number, 1.0) for number in range(rounds) for task in tasks for case in task.cases],
            [],
            is_cut,
        )

    monkeypatch.setattr(bench, "run_rounds", run_rounds)
    monkeypatch.setattr(sys, "argv", ["bench", *asked, "--out", str(tmp_path)])
    assert bench.main() == 0
    (path,) = tmp_path.glob("*.json")
    assert read(path).about["part"] is is_part
    assert read(path).about["seconds"] >= 0
    assert path.stem.endswith("-part") is is_part


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--rounds", "0"], "--rounds: is '0'; it must be a number from 1 up"),
        (["--tries=-1"], "--tries: is '-1'; it must be a number from 1 up"),
        (["--names", "unknown"], "--names: invalid choice: 'unknown' (choose from "),
        (["--no-peers"], "--no-peers needs --before CHECKOUT"),
        (["--before", str(ROOT / "configs")], "there is no dist_train in it; give the root of a checkout"),
        (["--out", __file__], f"--out {__file__}: cannot be written"),
        (["--names", "lightning bf16", "--ranks", "2", "--measures", "throughput"], "there is nothing to measure"),
    ],
)
def test_bad_options_are_refused_before_measuring(
    asked: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "_check_data", lambda: None)
    monkeypatch.setattr(bench, "peers_python", lambda: Path(sys.executable))
    monkeypatch.setattr(bench, "_fill_cache", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["bench", *asked])
    with pytest.raises(UserError, match=re.escape(message)):
        bench.main()


def test_missing_data_is_a_user_error(python: Python) -> None:
    unset = "import os, sys; os.environ.pop('DIST_TRAIN_DATA', None); sys.argv[1:] = ['--quick']; "
    imports = "from benchmarks.compare import bench; from dist_train.system.exit import run_guarded; "
    call = f"{imports}sys.exit(run_guarded(bench.main))"
    done = python("-c", unset + call)
    assert done.returncode == 2
    assert done.stderr.startswith("$DIST_TRAIN_DATA is not set")
    assert "Traceback" not in done.stderr
    done = python("-m", "benchmarks.compare.bench", "--quick", env={"DIST_TRAIN_DATA": str(ROOT / "configs")})
    assert done.returncode == 2
    assert "there is no" in done.stderr
