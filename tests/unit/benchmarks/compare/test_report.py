"""Reports and the tables of the README."""

from dataclasses import replace

from benchmarks.compare.measures import evaluation, loop, start
from benchmarks.compare.report import report, runs_table, throughput_table
from tests.unit.benchmarks.records import make_record, make_results, make_throughputs


def test_throughput_has_a_row_for_each_workload() -> None:
    row = throughput_table(make_results().records).splitlines()[-1]
    assert row == (
        "| MNIST example net, batch 64 | 1 | ignite 3,500 | lightning 5,000 | 7,000 (2.00 x) | "
        "10,500 (3.00 x, 2.10 x the best in bf16) | 4,000 | 0.98, - |"
    )


def test_a_small_step_shows_what_is_added() -> None:
    small = [*make_throughputs("small", ours=4000.0), make_record(loop.case("small", "ours"), 0, 58.3)]
    assert throughput_table(small).splitlines()[-1].endswith("| 58 us a step more |")
    noisy = [*small, make_record(loop.case("small", "ours"), 1, -20.3)]
    assert throughput_table(noisy).splitlines()[-1].endswith("| 19 (-20 to 58) us a step more |")
    assert throughput_table(small[:1]).splitlines()[-1].endswith("| -, - |")
    far = make_throughputs("small", ours=4000.0, bare_step_as_ours=5000.0)
    assert throughput_table(far).splitlines()[-1].endswith("| 0.80, - (runs minutes apart) |")


def test_start_and_evaluation_have_a_row_each() -> None:
    cases = {start.case(start.BARE): 3.5, start.case(start.DIST_TRAIN): 2.25, start.case(start.TORCHRUN): 3.6}
    alone = make_record(evaluation.case("mnist", "plain"), 0, 1.5)
    text = runs_table([*(make_record(case, 0, value) for case, value in cases.items()), alone])
    _, _, row = text.splitlines()
    assert row.startswith("| two ranks, from the command to the first step | bare script, torchrun 3.50 s |")
    assert row.endswith("| ours, dist-train train 2.25 s; ours, torchrun 3.60 s |")


def test_a_report_shows_which_targets_are_reached() -> None:
    results = make_results(ours=7100.0)
    text = report(replace(results, about={**results.about, "seconds": 3570}))
    assert "2 round(s) in 60 minutes; commit abc." in text
    assert "1 rank: ours / best peer | at least 2 | 2.03 (2.03 to 2.03, n 2) | yes |" in text
    assert "1 rank: ours auto / best peer | at least 3.2 | 3.00 (3.00 to 3.00, n 2) | **no** |" in text
    assert "| throughput | mnist | 1 | one | exit code 1 |" in text
    assert "| mnist | 1 | ours | 3 | 2 |" in text
