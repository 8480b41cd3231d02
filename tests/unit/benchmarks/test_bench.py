"""The benchmark's own arithmetic, its readings and tables; nothing here needs the frameworks that it measures."""

import json
import re
import sys
import time
import venv
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.compare import bench, builders, peers_environment
from benchmarks.compare.figures import Figure, best_peer, figures
from benchmarks.compare.measures import checkpoints, evaluation, loading, loop, start, throughput
from benchmarks.compare.peers_environment import LOCK
from benchmarks.compare.report import BEGIN, END, number, report, runs_table, throughput_table, with_part
from benchmarks.compare.session import OurRun, Session, overridden, own_settings, run_and_read, train
from benchmarks.compare.workloads import WORKLOADS, Workload
from benchmarks.processes import FailedError, Outcome, run
from benchmarks.results import Results, figures_of, machine_name, newest, read, write
from benchmarks.rounds import (
    DISTURBED,
    Case,
    Missing,
    Reading,
    Record,
    RoundsResult,
    Spread,
    Task,
    ratio,
    records_of,
    run_rounds,
)
from dist_train.errors import UserError
from dist_train.settings.loader import load_config
from dist_train.system.process import read_process_stat
from tests.conftest import ROOT, Python

ONE, OTHER = Case("throughput", "mnist", 1, "one", "samples/s"), Case("throughput", "mnist", 1, "other", "samples/s")
ABOUT = {
    "date": "2026-01-02T03:04:05+00:00", "processor": "Some(R) CPU  7", "cores": 2, "bf16": ["avx512_bf16"],
    "memory_gib": 8, "system": "Linux", "python": "3.11.1", "packages": {"torch": "2.15.0"}, "commit": "abc",
    "device": "cpu", "rounds": 2, "quick": False, "workers": {},
}  # fmt: skip


def record(case: Case, round_: int, value: float, others: float = 0.0) -> Record:
    return Record(case, round_, value, others, memory=3 << 20, largest=2 << 20)


def reading(value: float, others: float = 0.0) -> Reading:
    return Reading(value, Outcome(0.0, 1.0, others, 0, 0, ""))


def session(directory: Path) -> Session:
    return Session(directory, "cpu", quick=True, peers_python=Path(sys.executable))


def throughputs(workload: str = "mnist", **values: float) -> list[Record]:
    return [record(throughput.case(workload, 1, name.replace("_", " ")), 0, value) for name, value in values.items()]


class TestRatios:
    def test_are_taken_by_round(self) -> None:
        records = [record(ONE, 0, 10), record(OTHER, 0, 5), record(ONE, 1, 90), record(OTHER, 1, 30)]
        assert ratio(records, ONE, OTHER) == Spread(2.5, 2.0, 3.0, 2)

    def test_leave_out_rounds_in_which_one_was_disturbed(self) -> None:
        records = [record(ONE, 0, 10), record(OTHER, 0, 5), record(ONE, 1, 90), record(OTHER, 1, 3, others=0.5)]
        assert ratio(records, ONE, OTHER) == Spread(2.0, 2.0, 2.0, 1)

    def test_take_disturbed_rounds_where_there_are_no_others(self) -> None:
        records = [
            record(ONE, 0, 10, others=0.5),
            record(OTHER, 0, 5),
            record(ONE, 1, 30),
            record(OTHER, 1, 5, others=1),
        ]
        assert ratio(records, ONE, OTHER) == Spread(4.0, 2.0, 6.0, 2)

    def test_there_is_none_without_a_common_round(self) -> None:
        assert ratio([record(ONE, 0, 10), record(OTHER, 1, 5)], ONE, OTHER) is None

    def test_a_case_counts_its_undisturbed_rounds(self) -> None:
        records = [
            record(ONE, 0, 10, others=DISTURBED + 0.01),
            record(ONE, 1, 20, others=DISTURBED),
            record(OTHER, 0, 1),
        ]
        assert records_of(records, ONE) == [records[1]]
        assert records_of(records[:1], ONE) == records[:1]

    def test_a_spread_needs_numbers(self) -> None:
        assert Spread.of([3, 1, 2, 10]) == Spread(2.5, 1, 10, 4)
        with pytest.raises(ValueError, match="no numbers"):
            Spread.of([])


class TestTurns:
    def test_everybody_has_one_a_round(self) -> None:
        order: list[str] = []

        def measured(name: str) -> Callable[[], Reading]:
            return lambda: order.append(name) or reading(float(len(order)))  # type: ignore[func-returns-value]

        tasks = [Task.of(ONE, measured("one")), Task.of(OTHER, measured("other"))]
        records, missing, is_cut = run_rounds(tasks, rounds=2)
        assert order == ["one", "other", "one", "other"]
        assert [(each.case, each.round, each.value) for each in records] == [
            (ONE, 0, 1), (OTHER, 0, 2), (ONE, 1, 3), (OTHER, 1, 4),
        ]  # fmt: skip
        assert (missing, is_cut) == ([], False)

    def test_a_failure_is_missing_and_the_others_go_on(self) -> None:
        calls = []

        def fails() -> Reading:
            calls.append(1)
            raise FailedError("exit code 1")

        records, missing, is_cut = run_rounds([Task.of(ONE, fails), Task.of(OTHER, lambda: reading(1))], rounds=3)
        assert missing == [Missing(ONE, "exit code 1")]
        assert not is_cut
        assert len(calls) == 2
        assert [each.case for each in records] == [OTHER] * 3

    def test_what_fails_once_is_tried_again(self) -> None:
        answers: Iterator[FailedError | Reading] = iter([FailedError("exit code -6"), reading(1), reading(2)])

        def sometimes() -> Reading:
            answer = next(answers)
            if isinstance(answer, FailedError):
                raise answer
            return answer

        records, missing, is_cut = run_rounds([Task.of(ONE, sometimes)], rounds=3)
        assert [(each.round, each.value) for each in records] == [(1, 1), (2, 2)]
        assert (missing, is_cut) == ([], False)

    def test_one_run_may_give_several_readings(self) -> None:
        several = Task((ONE, OTHER), lambda: [reading(1), reading(2)])
        records, _, _ = run_rounds([several], rounds=2)
        assert [(each.case, each.round, each.value) for each in records] == [
            (ONE, 0, 1), (OTHER, 0, 2), (ONE, 1, 1), (OTHER, 1, 2),
        ]  # fmt: skip
        _, missing, _ = run_rounds([several], rounds=2, deadline=time.monotonic() - 1)
        assert [each.case for each in missing] == [ONE, OTHER]

    def test_what_has_no_time_is_missing(self) -> None:
        records, missing, is_cut = run_rounds(
            [Task.of(ONE, lambda: reading(1))], rounds=2, deadline=time.monotonic() - 1
        )
        assert (records, missing, is_cut) == ([], [Missing(ONE, "no time was left")], True)

    def test_what_was_measured_before_an_interruption_counts(self) -> None:
        answers: Iterator[KeyboardInterrupt | Reading] = iter([reading(1), reading(2), KeyboardInterrupt()])

        def interrupted() -> Reading:
            answer = next(answers)
            if isinstance(answer, KeyboardInterrupt):
                raise answer
            return answer

        tasks = [Task.of(ONE, interrupted), Task.of(OTHER, lambda: reading(9))]
        records, missing, is_cut = run_rounds(tasks, rounds=3)
        assert [(each.case, each.value) for each in records] == [(ONE, 1), (OTHER, 9), (ONE, 2), (OTHER, 9)]
        assert (missing, is_cut) == ([], True)

    def test_the_least_disturbed_try_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("benchmarks.rounds.others_now", lambda: 0.0)
        tries = iter([reading(1, 0.9), reading(2, 0.4), reading(3, 0.6), reading(4, 0.0)])
        records, _, _ = run_rounds([Task.of(ONE, lambda: next(tries))], rounds=1, tries=3)
        assert [each.value for each in records] == [2]
        records, _, _ = run_rounds([Task.of(ONE, lambda: next(tries))], rounds=1, tries=3)
        assert [each.value for each in records] == [4]


class TestReadings:
    def test_a_rate_is_between_two_steps(self) -> None:
        lines = [
            {"step": 1, "time": 0.0},
            {"step": 50, "time": 10.0},
            {"step": 100, "time": 11.0},
            {"step": 150, "time": 14.0},
        ]
        assert throughput.rate(lines, 64, 50, 150) == 100 * 64 / 4

    def test_a_rate_needs_both_steps(self) -> None:
        with pytest.raises(FailedError, match=r"no reading of step \[100\], only of \[50\]"):
            throughput.rate([{"step": 50, "time": 10.0}], 64, 50, 100)

    def test_each_peer_has_the_workers_that_are_best_in_its_precision(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rates = {("no", 0): 100.0, ("no", 1): 150.0, ("no", 2): 90.0, ("bf16", 0): 100.0, ("bf16", 2): 300.0}
        asked: list[tuple[str, int]] = []

        def measured(
            mine: Session, workload: Workload, ranks: int, python: Path, module: str, more: list[str]
        ) -> Reading:
            del mine, workload, ranks, python, module
            given = dict(zip(more[::2], more[1::2], strict=True))
            asked.append((given.get("--autocast", "no"), int(given["--workers"])))
            return reading(rates.get(asked[-1], 200.0))

        monkeypatch.setattr(throughput, "_read", measured)
        full = replace(session(tmp_path), quick=False)
        peers = throughput.PEERS["plain"], throughput.IN_BF16["plain bf16"]
        values = [
            [throughput.measure_peer(full, WORKLOADS["mnist"], 1, peer).value for peer in peers] for _ in range(2)
        ]
        assert values == [[150.0, 300.0], [150.0, 300.0]]
        assert asked[-2:] == [("no", 1), ("bf16", 2)]
        assert len(asked) == 8

    def test_the_wait_for_a_checkpoint_is_what_was_no_training(self) -> None:
        lines = [
            {"step": 1, "time": 10.0, "samples_per_second": 80.0},
            {"step": 2, "time": 10.1, "samples_per_second": 80.0},
            {"step": 3, "time": 10.25, "samples_per_second": 80.0},
            {"step": 4, "time": 10.35, "samples_per_second": 80.0},
            {"step": 5, "time": 10.47, "samples_per_second": 80.0},
        ]
        assert checkpoints.waits(lines, 8, every=2) == [pytest.approx(0.05), pytest.approx(0.02)]
        with pytest.raises(FailedError, match="fewer than two steps were saved"):
            checkpoints.waits(lines, 8, every=3)

    def test_an_evaluation_follows_the_line_of_its_step(self) -> None:
        trained = [{"step": 5, "time": 1.0}, {"step": 10, "time": 3.0}]
        evaluated = [{"step": 5, "time": 1.5}, {"step": 10, "time": 3.25}]
        assert evaluation.durations(trained, evaluated) == [0.5, 0.25]
        with pytest.raises(FailedError, match="1 evaluation"):
            evaluation.durations(trained, evaluated[:1])

    def test_imports_are_added_up_by_package(self) -> None:
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

    def test_a_start_is_until_the_line_of_the_first_step(self, tmp_path: Path) -> None:
        lines = [
            {"kind": "train", "step": 1, "time": 103.0}, {"kind": "eval", "step": 1, "time": 104.0},
            {"kind": "train", "step": 2, "time": 109.0},
        ]  # fmt: skip
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        ours = OurRun(Outcome(100.0, 20.0, 0.0, 0, 0, ""), tmp_path)
        assert start.first_step(ours).value == 3.0
        assert start.first_step(ours, step=2).value == 9.0


class TestProcesses:
    def test_are_watched(self) -> None:
        outcome = run([sys.executable, "-c", "import time; there = b'x' * 50_000_000; print('done'); time.sleep(0.5)"])
        assert outcome.output == "done\n"
        assert outcome.seconds > 0.5
        assert 50_000_000 < outcome.largest <= outcome.memory

    def test_memory_is_that_of_the_whole_family(self) -> None:
        child = "import time; there = b'x' * 50_000_000; time.sleep(0.5)"
        parent = f"import subprocess, sys; there = b'x' * 50_000_000; subprocess.run([sys.executable, '-c', {child!r}])"
        outcome = run([sys.executable, "-c", parent])
        assert outcome.memory > 100_000_000 > outcome.largest

    def test_a_failure_says_what_was_printed(self) -> None:
        with pytest.raises(FailedError, match="exit code 3\nno such thing"):
            run([sys.executable, "-c", "import sys; print('no such thing'); sys.exit(3)"])

    def test_what_does_not_end_is_ended_with_its_children(self, tmp_path: Path) -> None:
        pids = tmp_path / "pids"
        child = f"import os, time; open({str(pids)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
        parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
        with pytest.raises(FailedError, match="timed out after 1 s"):
            run([sys.executable, "-c", parent], timeout=1.0)
        deadline = time.monotonic() + 5
        while (found := read_process_stat(int(pids.read_text()))) and found[0] != "Z" and time.monotonic() < deadline:
            time.sleep(0.02)
        assert found is None or found[0] == "Z"

    def test_what_was_written_counts_however_the_process_ends(self, tmp_path: Path) -> None:
        readings = tmp_path / "readings"
        write = f"open({str(readings)!r}, 'w').write('{{\"step\": 5, \"time\": 1.0}}\\n')"
        command = [sys.executable, "-c", f"import os; {write}; os.abort()"]
        _, lines = run_and_read(command, readings, last=5)
        assert lines == [{"step": 5, "time": 1.0}]
        with pytest.raises(FailedError, match="exit code -6"):
            run_and_read(command, readings, last=6)


class TestFigures:
    def test_the_best_peer_has_the_highest_median(self) -> None:
        records = throughputs(plain=30, accelerate=40, lightning=20, lightning_defaults=90, plain_bf16=99, ours=80)
        assert best_peer(records, "mnist", 1) == throughput.case("mnist", 1, "accelerate")
        assert best_peer(records, "mnist", 2) is None

    def figure(self, text: str) -> Figure:
        return next(each for each in figures() if each.text.startswith(text))

    def test_ours_is_held_against_the_best_peer(self) -> None:
        figure = self.figure("MNIST example net, batch 64, 1 rank: ours auto / best peer")
        measured = figure.measure(throughputs(plain=30, accelerate=40, ours=80, ours_auto=128))
        assert measured == Spread(3.2, 3.2, 3.2, 1)
        assert figure.is_reached_by(3.2)
        assert not figure.is_reached_by(3.19)

    def test_what_a_small_step_adds(self) -> None:
        figure = self.figure("CIFAR tutorial net, batch 4, 1 rank: microseconds")
        added = loop.compare(WORKLOADS["small"], 4000, 4200)
        assert added == pytest.approx(1e6 * (4 / 4000 - 4 / 4200))
        measured = figure.measure([replace(each, case=loop.case("small", "ours")) for each in throughputs(ours=added)])
        assert measured is not None
        assert measured.median == added
        assert figure.is_reached_by(60.0)
        assert not figure.is_reached_by(60.1)

    def test_the_bare_step_is_compared_with_the_run_right_beside_it(self) -> None:
        figure = self.figure("MNIST example net, batch 64, 1 rank: ours / bare step")
        far = throughputs(ours=90, bare_step_as_ours=100)
        near = [record(loop.case("mnist", "ours"), 0, share) for share in (0.97, 0.98, 1.0)]
        assert figure.measure(far) is None
        assert figure.measure(far + near) == Spread(0.98, 0.97, 1.0, 3)

    def test_each_run_of_a_pair_is_right_before_the_other(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        order: list[str] = []
        speeds = iter([10, 20, 100, 90])

        def measured(who: str, others: float, memory: int) -> Reading:
            order.append(who)
            return Reading(next(speeds), Outcome(0.0, 1.0, others, memory, memory, ""))

        monkeypatch.setattr(loop, "measure_ours", lambda *_: measured("ours", 0.0, 5))
        monkeypatch.setattr(loop, "measure_bare_step", lambda *_, **__: measured("bare", 0.5, 3))
        pairs = list(loop.tasks(replace(session(tmp_path), quick=False), [WORKLOADS["mnist"]]))
        assert [pair.cases for pair in pairs] == [
            (loop.case("mnist", name),) for name in throughput.OURS for _ in range(loop.PAIRS)
        ]
        found = [reading for pair in pairs[:2] for reading in pair.measure()]
        assert [each.value for each in found] == [0.5, 0.9]
        assert order == ["ours", "bare", "bare", "ours"]
        assert {(each.outcome.others, each.outcome.memory) for each in found} == {(0.5, 5)}

    def test_each_has_a_name_of_its_own(self) -> None:
        texts = [figure.text for figure in figures()]
        assert len(texts) == len(set(texts)) > 30

    def test_what_was_measured_in_disturbed_rounds_only_says_so(self) -> None:
        text = "MNIST example net, batch 64, 1 rank: ours / best peer"
        quiet = throughputs(plain=30, ours=80)
        loud = [replace(each, others=1.0) for each in quiet]
        found = [next(each for each in figures_of(records) if each["figure"] == text) for records in (quiet, loud)]
        assert [(each["reached"], each["disturbed"]) for each in found] == [(True, False), (True, True)]

    def test_what_was_not_measured_is_not_reached(self) -> None:
        found = figures_of([])
        assert all(each["measured"] is None and each["reached"] is None for each in found)

    def test_every_case_of_a_figure_is_measured_by_somebody(self, tmp_path: Path) -> None:
        """A figure whose names nobody measures would stay empty for ever: with a number in all cases, none is empty."""
        full = replace(session(tmp_path), quick=False)
        workloads = list(WORKLOADS.values())
        tasks = [
            *throughput.tasks(full, workloads, [1, 2]), *loop.tasks(full, workloads), *start.tasks(full),
            *evaluation.tasks(full, workloads), *loading.tasks(full), *checkpoints.wait_tasks(full),
            *checkpoints.restart_tasks(full),
        ]  # fmt: skip
        records = [record(case, 0, 1.0) for task in tasks for case in task.cases]
        assert [each["figure"] for each in figures_of(records) if each["measured"] is None] == []


class TestReport:
    def results(self, **changes: float) -> Results:
        values = {
            "plain": 3000.0,
            "ignite": 3500.0,
            "ours": 7000.0,
            "ours auto": 10500.0,
            "bare step": 4000.0,
            **changes,
        }
        records = [record(throughput.case("mnist", 1, name), number, value + number)
                   for number in range(2) for name, value in values.items()]  # fmt: skip
        more = [
            record(loop.case("mnist", "ours"), 0, 0.98),
            *throughputs("mnist", plain_bf16=4000.0, lightning_bf16=5000.0, lightning_defaults=9000.0),
        ]
        return Results(ABOUT, records + more, [Missing(ONE, "exit code 1\nmore")])

    def test_a_row_for_each_work(self) -> None:
        row = throughput_table(self.results().records).splitlines()[-1]
        assert row == (
            "| MNIST example net, batch 64 | 1 | ignite 3,500 | lightning 5,000 | 7,000 (2.00 x) | "
            "10,500 (3.00 x, 2.10 x the best in bf16) | 4,000 | 0.98, - |"
        )

    def test_a_small_step_says_what_is_added(self) -> None:
        small = [*throughputs("small", ours=4000.0), record(loop.case("small", "ours"), 0, 58.3)]
        assert throughput_table(small).splitlines()[-1].endswith("| 58 us a step more |")
        noisy = [*small, record(loop.case("small", "ours"), 1, -20.3)]
        assert throughput_table(noisy).splitlines()[-1].endswith("| 19 (-20 to 58) us a step more |")
        assert throughput_table(small[:1]).splitlines()[-1].endswith("| -, - |")
        far = throughputs("small", ours=4000.0, bare_step_as_ours=5000.0)
        assert throughput_table(far).splitlines()[-1].endswith("| 0.80, - (runs minutes apart) |")

    def test_a_run_beside_its_steps(self) -> None:
        cases = {start.case(start.BARE): 3.5, start.case(start.DIST_TRAIN): 2.25, start.case(start.TORCHRUN): 3.6}
        alone = record(evaluation.case("mnist", "plain"), 0, 1.5)
        text = runs_table([*(record(case, 0, value) for case, value in cases.items()), alone])
        _, _, row = text.splitlines()
        assert row.startswith("| two ranks, from the command to the first step | bare script, torchrun 3.50 s |")
        assert row.endswith("| ours, dist-train train 2.25 s; ours, torchrun 3.60 s |")

    def test_says_what_is_reached_and_what_is_not(self) -> None:
        results = self.results(ours=7100.0)
        text = report(replace(results, about={**results.about, "seconds": 3570}))
        assert "2 round(s) in 60 minutes, everybody in turn" in text
        assert "1 rank: ours / best peer | at least 2 | 2.03 (2.03 to 2.03, n 2) | yes |" in text
        assert "1 rank: ours auto / best peer | at least 3.2 | 3.00 (3.00 to 3.00, n 2) | **no** |" in text
        assert "| throughput | mnist | 1 | one | exit code 1 |" in text
        assert "| mnist | 1 | ours | 3 | 2 |" in text

    def test_results_are_read_as_they_were_written(self, tmp_path: Path) -> None:
        results = self.results()
        (tmp_path / "some.json").write_text(json.dumps(results.to_dict()))
        assert read(tmp_path / "some.json") == results

    @pytest.mark.parametrize(("value", "text"), [(3243.4, "3,243"), (57.12, "57.1"), (0.94149, "0.941"), (2.0, "2.00")])
    def test_numbers_have_three_digits(self, value: float, text: str) -> None:
        assert number(value) == text

    @pytest.mark.parametrize(
        ("about", "suffix"),
        [
            ({}, ""),
            ({"part": False}, ""),
            ({"quick": True}, "-quick"),
            ({"device": "NVIDIA A100"}, "-cuda"),
            ({"quick": True, "device": "NVIDIA A100", "part": True}, "-quick-cuda-part"),
        ],
    )
    def test_files_say_what_session_it_was(self, about: dict[str, object], suffix: str, tmp_path: Path) -> None:
        path = write(Results(ABOUT | about, [], []), "text", tmp_path)
        assert path == tmp_path / f"some-cpu-7-2-cores-2026-01-02{suffix}.json"
        assert path.with_suffix(".md").read_text() == "text"

    def test_no_session_overwrites_another(self, tmp_path: Path) -> None:
        results = [Results(ABOUT | {"rounds": rounds}, [], []) for rounds in range(3)]
        paths = [write(each, "text", tmp_path) for each in results]
        ends = ["-02.json", "-02-2.json", "-02-3.json"]
        assert [path.name.removeprefix("some-cpu-7-2-cores-2026-01") for path in paths] == ends
        assert [read(path) for path in paths] == results

    def test_a_machine_has_a_name_for_files(self) -> None:
        assert machine_name(ABOUT) == "some-cpu-7-2-cores"


class TestReadme:
    def written(self, directory: Path, name: str, **about: object) -> Path:
        results = Results(ABOUT | about, throughputs(plain=1000, ours=2000), [])
        path = directory / f"{name}.json"
        path.write_text(json.dumps(results.to_dict()))
        return path

    def test_shows_the_newest_results(self) -> None:
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        path = newest()
        if path is None:
            assert BEGIN not in text, "there are no results that the table could be of"
        else:
            assert bench.part_of(path) in text, "run python -m benchmarks.compare.bench --readme"

    def test_the_newest_is_a_full_session(self, tmp_path: Path) -> None:
        assert newest(tmp_path) is None
        older = self.written(tmp_path, "b", date="2026-01-01T00:00:00+00:00")
        self.written(tmp_path, "quick", quick=True, date="2026-01-03T00:00:00+00:00")
        self.written(tmp_path, "cuda", device="NVIDIA A100", date="2026-01-03T00:00:00+00:00")
        self.written(tmp_path, "part", part=True, date="2026-01-03T00:00:00+00:00")
        (tmp_path / "gpu.json").write_text('{"kind": "gpu", "records": []}')
        (tmp_path / "growth.json").write_text("[]")
        assert newest(tmp_path) == older
        newer = self.written(tmp_path, "a", part=False)
        assert newest(tmp_path) == newer

    def test_is_written_between_the_marks(self, tmp_path: Path) -> None:
        path = self.written(tmp_path, "machine")
        readme = tmp_path / "README.md"
        readme.write_text(f"before\n{BEGIN} old {END}\nafter\n")
        bench.write_readme(readme, tmp_path)
        text = readme.read_text()
        assert text.startswith(f"before\n{BEGIN}\n")
        assert text.endswith(f"{END}\nafter\n")
        assert "old" not in text
        assert "2,000 (2.00 x)" in text
        assert bench.part_of(path) in text
        self.written(tmp_path, "machine", commit="def")
        assert bench.part_of(path) not in text

    def test_needs_marks_and_results(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="holds no results of a full session"):
            bench.write_readme(tmp_path / "README.md", tmp_path)
        self.written(tmp_path, "machine")
        (tmp_path / "README.md").write_text("text\n")
        with pytest.raises(UserError, match=f"no {BEGIN} and {END}"):
            bench.write_readme(tmp_path / "README.md", tmp_path)
        with pytest.raises(ValueError, match="no <!-- bench -->"):
            with_part(f"{END} {BEGIN}", "part")


class TestWorks:
    @pytest.mark.parametrize("name", WORKLOADS)
    def test_are_those_of_their_recipes(self, name: str) -> None:
        workload = WORKLOADS[name]
        config = builders.load_settings(workload)
        assert (config.data.name, config.data.global_batch) == (workload.dataset, workload.batch)
        logits = builders.build_network(workload)(builders.random_batch(workload, 2)[0])
        assert logits.shape == (2, 10)
        optimizer = builders.build_optimizer(workload, [logits.detach().requires_grad_()])
        assert optimizer.defaults["momentum"] == config.optim.arguments()["momentum"] > 0

    @pytest.mark.parametrize("name", WORKLOADS)
    @pytest.mark.parametrize("quick", [True, False])
    def test_the_clock_is_read_at_both_ends_within_an_epoch(self, name: str, quick: bool) -> None:
        workload = WORKLOADS[name]
        first, last = workload.window(quick)
        assert 0 < first < last <= {"mnist": 60_000, "cifar10": 50_000}[workload.dataset] // workload.batch
        assert first % workload.log_every_steps == last % workload.log_every_steps == 0
        assert (last - first) // 2 >= 1, "a checkpoint has to lie between"

    @pytest.mark.parametrize("name", WORKLOADS)
    def test_our_settings_are_settings(self, name: str, tmp_path: Path) -> None:
        ours = overridden(own_settings(session(tmp_path), WORKLOADS[name]), ["log.every_steps=1", "train.max_steps=1"])
        config = load_config(builders.CONFIGS / WORKLOADS[name].recipe, ours)
        assert config.log.every_steps == 1
        assert config.log.ledger
        assert config.log.tensorboard

    def test_an_override_is_given_once(self) -> None:
        assert overridden(["a=1", "b=2"], ["a=3", "c=4"]) == ["a=3", "b=2", "c=4"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_missed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for folder in ("MNIST/raw", "cifar-10-batches-py"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setenv("DIST_TRAIN_DATA", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["bench", "--device", "cuda", "--ranks", "1"])
    with pytest.raises(UserError, match="there are 0 GPUs for --ranks 1"):
        bench.main()


@pytest.mark.parametrize(
    ("asked", "is_cut_short", "is_part"),
    [
        ([], False, False),
        (["--quick", "--ranks", "2", "1"], False, False),
        (["--workloads", "mnist"], False, True),
        (["--measures", "start"], False, True),
        (["--ranks", "1"], False, True),
        (["--who", "ours"], False, True),
        ([], True, True),
    ],
)
def test_a_session_knows_whether_it_is_a_part(
    asked: list[str], is_cut_short: bool, is_part: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench, "_check_data", lambda: None)
    monkeypatch.setattr(bench, "peers_python", lambda: Path(sys.executable))

    def turns(tasks: list[Task], rounds: int, *_: object) -> RoundsResult:
        return RoundsResult(
            [record(case, number, 1.0) for number in range(rounds) for task in tasks for case in task.cases],
            [],
            is_cut_short,
        )

    monkeypatch.setattr(bench, "run_rounds", turns)
    monkeypatch.setattr(sys, "argv", ["bench", *asked, "--out", str(tmp_path)])
    assert bench.main() == 0
    (path,) = tmp_path.glob("*.json")
    assert read(path).about["part"] is is_part
    assert read(path).about["seconds"] >= 0
    assert path.stem.endswith("-part") is is_part


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--rounds", "0"], "--rounds: is '0'; it must be a number from 1 up"),
        (["--tries=-1"], "--tries: is '-1'; it must be a number from 1 up"),
        (["--who", "nobody"], "--who: invalid choice: 'nobody' (choose from "),
        (["--out", __file__], f"--out {__file__}: cannot be written"),
        (["--who", "lightning bf16", "--ranks", "2", "--measures", "throughput"], "there is nothing to measure"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(
    asked: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "_check_data", lambda: None)
    monkeypatch.setattr(bench, "peers_python", lambda: Path(sys.executable))
    monkeypatch.setattr(sys, "argv", ["bench", *asked])
    with pytest.raises(UserError, match=re.escape(said)):
        bench.main()


def test_peers_that_cannot_be_installed_are_no_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(peers_environment, "DIRECTORY", tmp_path)
    monkeypatch.setattr(peers_environment, "PYTHON", Path("/bin/false"))
    monkeypatch.setattr(venv, "create", lambda *_, **__: None)
    monkeypatch.setattr(peers_environment, "_site_packages", lambda: tmp_path)
    with pytest.raises(UserError, match=r"peers\.lock cannot be installed .*exit status 1"):
        peers_environment.peers_python()
    assert not (tmp_path / "installed.lock").exists()


def lines_of(text: str) -> Iterable[str]:
    return (line for line in text.splitlines() if line)


def test_the_peers_are_pinned() -> None:
    pins = dict(line.split("==") for line in lines_of(LOCK.read_text()))
    assert {"accelerate", "lightning", "pytorch-ignite"} <= set(pins)
    assert not {"torch", "torchvision", "numpy"} & set(pins), "those are the project's own"


def test_without_data_the_command_says_so(python: Python) -> None:
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


@pytest.mark.slow
def test_ours_and_the_limit_are_measured(tmp_path: Path) -> None:
    """On made images, so that no files are needed; the bare step in the format that ours has chosen."""
    mine = session(tmp_path)
    workload = replace(
        WORKLOADS["mnist"],
        log_every_steps=2,
        warm_up=2,
        quick_steps=4,
        overrides=("data.name=synthetic",),
    )
    measured = throughput.measure_ours(mine, workload, 1, "ours", ["train.precision=fp32", "data.global_batch=64"])
    assert measured.value > 0
    assert measured.outcome.largest > 0
    assert mine.choices["mnist", 1, "ours"]["precision"] == "fp32"
    ours = train(mine, workload, 1, "train.max_steps=1", "log.every_steps=1")
    assert start.first_step(ours).value > 0
    with pytest.raises(FailedError, match="ours auto did not run"):
        throughput.measure_bare_step(mine, workload, 1, as_="ours auto")
    mine = replace(mine, quick=True)
    bare = throughput.measure_bare_step(mine, replace(WORKLOADS["mnist"], quick_steps=50), 1, as_="ours")
    assert bare.value > 0
