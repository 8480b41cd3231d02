"""The workloads and what is built for them."""

import pytest

from benchmarks.compare import builders
from benchmarks.compare.workloads import WORKLOADS


@pytest.mark.parametrize("name", WORKLOADS)
def test_workloads_are_those_of_their_recipes(name: str) -> None:
    workload = WORKLOADS[name]
    config = builders.load_settings(workload)
    assert (config.data.name, config.data.global_batch) == (workload.dataset, workload.batch)
    logits = builders.build_network(workload)(builders.random_batch(workload, 2)[0])
    assert logits.shape == (2, 10)
    optimizer = builders.build_optimizer(workload, [logits.detach().requires_grad_()])
    assert optimizer.defaults["momentum"] == config.optim.arguments()["momentum"] > 0


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("quick", [True, False])
def test_a_window_begins_and_ends_at_log_lines_within_an_epoch(name: str, quick: bool) -> None:
    workload = WORKLOADS[name]
    first, last = workload.window(quick)
    assert 0 < first < last <= {"mnist": 60_000, "cifar10": 50_000}[workload.dataset] // workload.batch
    assert first % workload.log_every_steps == last % workload.log_every_steps == 0
    assert (last - first) // 2 >= 1, "a checkpoint has to be saved between"
