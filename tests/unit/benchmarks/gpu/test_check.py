"""`make gpu-check` where there is no GPU, and that it takes no part for passed that it did not do."""

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.gpu import check
from benchmarks.gpu.check import MINUTES, PARTS, START_SECONDS, Check, Part
from benchmarks.gpu.rows import Row, Sheet, markdown, read_rows
from benchmarks.processes import environment
from tests.conftest import ROOT, Python, command_of

BLIND = {"CUDA_VISIBLE_DEVICES": ""}  # no GPU, whatever machine this is


@pytest.mark.slow
def test_without_a_gpu_all_parts_are_skipped_and_the_exit_code_is_3(interpreter: Python, tmp_path: Path) -> None:
    done = interpreter("-m", "benchmarks.gpu.check", "--out", str(tmp_path), env=BLIND)
    assert done.returncode == 3, done.stdout + done.stderr
    for part in PARTS:
        assert f"{part.name}: skipped: torch finds no GPU" in done.stdout
    assert "--allow-cpu" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_cpu_measures_what_it_can_and_reports_the_rest_as_skipped(interpreter: Python, tmp_path: Path) -> None:
    asked = ("--allow-cpu", "--parts", "tests", "mnist", "--out", str(tmp_path))
    done = interpreter("-m", "benchmarks.gpu.check", *asked, env={**BLIND, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".md", ".log"}
    content = json.loads(next(tmp_path.glob("*.json")).read_text())
    rows = {(row["part"], row["name"]): row for row in content["rows"]}
    assert content["facts"]["gpu"] is None
    for who in ("ours", "bare", "plain"):
        assert rows["mnist", f"{who} fp32"]["outcome"] == "measured"
        assert rows["mnist", f"{who} fp32"]["value"] > 0
    assert rows["mnist", "ours tf32"] == {
        **rows["mnist", "ours tf32"],
        "outcome": "skipped",
        "note": "a CPU has no TF32",
    }
    tests = [row for part, row in rows.items() if part[0] == "tests"]
    assert len(tests) > 15
    assert {row["outcome"] for row in tests} == {"skipped"}
    assert "| mnist | ours fp32 | measured |" in done.stdout
    assert "0 passed" in done.stdout


def test_the_parts_together_take_the_time_limit_and_say_most_first() -> None:
    assert sum(part.seconds for part in PARTS) + START_SECONDS == 60 * MINUTES
    names = [part.name for part in PARTS]
    assert names.index("ddp") < names.index("compiled") < names.index("profile") < names.index("mnist")


def test_what_has_ended_is_written_before_the_next_part_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def run_part(_: Check, part: Part, device: str, later: float) -> list[Row]:
        assert later == sum(other.seconds for other in PARTS[len(seen) + 1 :])
        files = list(tmp_path.glob("*.json"))
        seen.append(len(json.loads(files[0].read_text())["rows"]) if files else 0)
        return [Row(part.name, f"something on a {device}", "passed")]

    monkeypatch.setattr(Check, "facts", lambda _: {"gpu": None})
    monkeypatch.setattr(Check, "run_part", run_part)
    assert check.main(["--allow-cpu", "--out", str(tmp_path)]) == 0
    assert seen == list(range(len(PARTS)))


@pytest.mark.long
def test_distributed_data_parallel_is_tried_without_a_gpu_too(interpreter: Python, tmp_path: Path) -> None:
    asked = ("--allow-cpu", "--parts", "ddp", "profile", "--out", str(tmp_path))
    done = interpreter("-m", "benchmarks.gpu.check", *asked, env={**BLIND, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["name"]: row for row in json.loads(next(tmp_path.glob("*.json")).read_text())["rows"]}
    assert rows["gloo, 2 rank(s)"]["outcome"] == "passed"
    assert rows["nccl, 1 rank(s), compiled"]["note"] == "on a GPU only"
    assert rows["small: operations a step"]["value"] > 20


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lacking = {**check.NEEDED, "no_such_module_of_ours": "no-such-package"}
    monkeypatch.setattr(check, "NEEDED", lacking)
    assert check.main([]) == 2
    assert "lacks no-such-package" in capsys.readouterr().err


def test_the_command_imports_none_of_the_packages_it_checks(interpreter: Python) -> None:
    needed = " ".join(check.NEEDED)
    done = interpreter(
        "-c", f"import benchmarks.gpu.check, sys; print([m for m in '{needed}'.split() if m in sys.modules])"
    )
    assert done.stdout == "[]\n", done.stderr


def test_parts_keep_the_rest_of_pythonpath(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/opt/packages")
    assert environment()["PYTHONPATH"] == f"{ROOT}{os.pathsep}/opt/packages"
    monkeypatch.delenv("PYTHONPATH")
    assert environment()["PYTHONPATH"] == str(ROOT)


def test_a_part_for_which_no_time_is_left_is_skipped(tmp_path: Path) -> None:
    rows = Check(tmp_path, time.monotonic() + 1).run_part(PARTS[0], "cpu")
    assert [(row.outcome, row.note) for row in rows] == [("skipped", "no time was left")]


@pytest.mark.parametrize(
    ("left", "later", "limit"), [(100.0, 80.0, 35.0), (100.0, 20.0, 80.0), (30.0, 80.0, 30.0), (100.0, 0.0, 100.0)]
)
def test_a_part_takes_the_time_that_others_do_not_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: float, later: float, limit: float
) -> None:
    given: list[float] = []

    def run(_: Check, arguments: list[str], seconds: float, sheet: Path) -> str:
        assert sheet.stem == arguments[0]
        given.append(seconds)
        return ""

    monkeypatch.setattr(Check, "_run", run)
    Check(tmp_path, time.monotonic() + left).run_part(Part("mnist", "throughput", 35.0), "cpu", later)
    assert given == [pytest.approx(limit, abs=0.5)]


# Replaces `python -m benchmarks.gpu.parts`: writes some rows, and ends as the test wants it.
FAKE_PYTHON = """#!{python}
import sys, time
from pathlib import Path
from subprocess import Popen
sys.path.insert(0, {root!r})
from benchmarks.gpu.rows import Sheet
sheet = Sheet(Path(sys.argv[sys.argv.index("--sheet") + 1]), "group")
sheet.plan(["first", "second"])
sheet.add("first", "passed")
{ending}
"""


@pytest.mark.parametrize(
    ("ending", "outcome", "note"),
    [
        ("Popen(['sleep', '61.25'], start_new_session=True).wait()", "skipped", "no time was left"),
        ("sys.exit('fallen off the bus')", "failed", "the process ended with 1: fallen off the bus"),
        ("sheet.plan(['second'])", "failed", "the part ended without it"),
    ],
)
def test_a_planned_row_without_result_is_not_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, outcome: str, note: str
) -> None:
    fake = tmp_path / "python"
    fake.write_text(FAKE_PYTHON.format(python=sys.executable, root=str(ROOT), ending=ending))
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    monkeypatch.setattr(check, "MIN_SECONDS", 0.0)
    rows = Check(tmp_path, time.monotonic() + 60).run_part(Part("group", "a group", 2.0), "cpu", later=60.0)
    assert [(row.name, row.outcome, row.note) for row in rows] == [("first", "passed", ""), ("second", outcome, note)]
    deadline = time.monotonic() + 5
    while is_running(b"sleep 61.25 "):
        assert time.monotonic() < deadline, "what the part had started continues"
        time.sleep(0.05)


def is_running(command: bytes) -> bool:
    return any(command_of(int(place.name)) == command for place in Path("/proc").iterdir() if place.name.isdecimal())


def test_ours_is_compared_with_the_bare_step_and_plain_fp32() -> None:
    bare, plain = (
        Row("mnist", name, "measured", value) for name, value in (("bare bf16", 400.0), ("plain fp32", 50.0))
    )
    ours = Row("mnist", "ours bf16 compiled", "measured", 300.0, "samples/s", 290.0, 310.0, 2**21)
    lines = markdown([bare, plain, ours, replace(ours, part="small")]).splitlines()
    assert lines[-2] == (
        "| mnist | ours bf16 compiled | measured | 300 samples/s | 290 to 310 | 0.75 | 6.00 | 2 MiB |  |"
    )
    assert lines[-1].split("|")[6:8] == ["  ", "  "], "the figures of another workload"


def test_a_line_that_a_kill_cut_short_is_ignored(tmp_path: Path) -> None:
    sheet = Sheet(tmp_path / "sheet", "group")
    sheet.plan(["a", "b"])
    sheet.add("a", "passed")
    with sheet.path.open("a") as file:
        file.write('{"part": "group", "name": "b", "outc')
    assert [(row.name, row.outcome) for row in read_rows(sheet.path)] == [("a", "passed"), ("b", "planned")]
