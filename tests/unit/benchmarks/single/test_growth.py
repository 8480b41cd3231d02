"""The check of growth finds what grows."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.machine import about_machine
from benchmarks.processes import FailedError, family
from benchmarks.rounds import NO_TIME
from benchmarks.single import growth
from benchmarks.single.growth import Finding, Scale
from benchmarks.single.memory import Sample
from benchmarks.tables import number


def lines(*seconds_a_step: float) -> list[dict[str, Any]]:
    """Lines of metrics, one after each 10 steps that took so long, after a first slow one."""
    found, time = [], 0.0
    for count, seconds in enumerate((5.0, *seconds_a_step), start=1):
        time += 10 * seconds
        found.append({"step": 10 * count, "time": time})
    return found


def samples(*resident: int) -> list[Sample]:
    """Of a process that lives for 100 seconds."""
    return [Sample(100 * each / len(resident), size, 0, 0) for each, size in enumerate(resident)]


@pytest.mark.parametrize(
    ("steps", "resident", "kept"),
    [
        ([1.0] * 40, [2**30] * 200, [True, True]),
        ([1.0 + number / 100 for number in range(40)], [2**30] * 200, [False, True]),
        ([1.0] * 40, [2**30 + 2**21 * number for number in range(200)], [True, False]),
    ],
    ids=["flat", "slower and slower", "larger and larger"],
)
def test_what_grows_over_steps_is_found(steps: list[float], resident: list[int], kept: list[bool]) -> None:
    scaled = [{**line, "time": line["time"] * 100 / lines(*steps)[-1]["time"]} for line in lines(*steps)]
    found = list(growth._tenths("steps", "40 steps", scaled, samples(*resident)))
    assert [finding.is_kept for finding in found] == kept


def test_the_first_line_does_not_count() -> None:
    slow_start, _ = growth._tenths("steps", "40 steps", lines(*[0.25] * 40), samples(2**20))
    assert slow_start.values == {"first tenth": pytest.approx(250), "last tenth": pytest.approx(250)}


@pytest.mark.parametrize(("longer", "kept"), [(0, True), (60, False)])
def test_lines_that_grow_are_found(tmp_path: Path, longer: int, kept: bool) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join("x" * (100 + longer * number // 100) + "\n" for number in range(100)))
    assert growth._lengths("steps", "a line", path).is_kept is kept


@pytest.mark.long
def test_sizes_are_measured_on_data_that_are_cached(tmp_path: Path) -> None:
    scale = Scale(steps=0, checkpoints=0, sizes={"small": 1600, "larger": 6400}, rounds=1)
    pause, memory = growth.at_an_epoch(tmp_path, scale)
    assert set(pause.values) == {"small", "larger"}
    assert memory.unit == "bytes a sample"
    assert len(list((tmp_path / "cache").glob("synthetic-train-*/images.u8"))) == 2
    assert {path.stat().st_size for path in (tmp_path / "cache").glob("synthetic-train-*/images.u8")} == {
        1600 * 64,
        6400 * 64,
    }


@pytest.mark.long
def test_the_memory_of_both_ranks_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "TRAINING_SECONDS", 0.0)
    found = list(growth.of_ranks(tmp_path, Scale(0, 0, {"small": 320, "larger": 640}, rounds=1)))
    assert [finding.measure for finding in found] == ["ranks"] * 3
    assert all(50 < value < 4000 for value in found[0].values.values()), found


def test_a_process_that_ends_while_it_is_looked_at_has_no_family(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> Iterator[Path]:
        raise FileNotFoundError("/proc/1/task")

    monkeypatch.setattr(Path, "glob", gone)
    assert family(1) == {1}


@pytest.mark.parametrize(
    ("error", "code", "missing"),
    [
        (FailedError("exit code 1"), 1, {"steps": "exit code 1"}),
        (KeyboardInterrupt(), 0, {"steps": NO_TIME, "start": NO_TIME}),
    ],
    ids=["failed", "Ctrl-C"],
)
def test_what_ends_early_does_not_lose_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, missing: dict[str, str]
) -> None:
    def ends_early(*_: object) -> Iterator[Finding]:
        yield growth._flat("steps", "a step", "ms", {"first": 1.0, "last": 1.0})
        raise error

    def works(*_: object) -> Iterator[Finding]:
        yield growth._flat("start", "to the first step", "s", {"small": 1.0, "large": 1.0})

    monkeypatch.setattr(growth, "MEASURES", {"steps": ends_early, "start": works})
    monkeypatch.setattr("sys.argv", ["growth", "--out", str(tmp_path)])
    for _ in range(2):
        assert growth.main() == code
    contents = [json.loads(path.read_text()) for path in tmp_path.glob("growth-*-part*.json")]
    assert [content["missing"] for content in contents] == [missing] * 2
    measures = ["steps", *({"start"} - set(missing))]
    assert [[each["measure"] for each in content["findings"]] for content in contents] == [measures] * 2
    for path in tmp_path.glob("growth-*-part*.md"):
        assert all(f"{name}: {why}" in path.read_text() for name, why in missing.items())


@pytest.mark.parametrize(("bytes_a_sample", "kept"), [(1, True), (4, False)])
def test_memory_that_grows_with_samples_is_found(bytes_a_sample: int, kept: bool) -> None:
    scale = Scale(0, 0, {"10 thousand": 10_000, "10 million": 10_000_000}, 1)
    private = {name: 300e6 + bytes_a_sample * size for name, size in scale.sizes.items()}
    finding = growth._growth_by_size("epoch", "private memory", scale, private)
    assert finding.is_kept is kept
    assert list(finding.values.values())[-1] == pytest.approx(bytes_a_sample)


def test_the_table_and_the_numbers_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finding = growth._flat("start", "to the first step", "s", {"small": 1.0, "large": 3.0})
    about = {**about_machine(), "others": 0.25}
    growth._write([finding], {}, Scale(5, 5, {"small": 1}, 3), about, tmp_path, "")
    (content,) = (json.loads(path.read_text()) for path in tmp_path.glob("growth-*.json"))
    assert content["findings"][0]["is_kept"] is False
    values = f"small: {number(1.0)}, large: {number(3.0)} s"
    row = f"| start | to the first step | {values} | the last at most 1.1 x the first | NO |"
    assert row in next(tmp_path.glob("growth-*.md")).read_text()
    assert row in capsys.readouterr().out
