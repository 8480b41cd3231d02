"""Each operator counts once, and under the right kind."""

import torch

from benchmarks.compare.programs import bare_step
from benchmarks.compare.programs.bare_step import Profile
from benchmarks.single import operators


def test_each_operator_counts_under_one_kind() -> None:
    seconds = {
        "aten::mkldnn_convolution": 4.0,
        "aten::convolution_backward": 3.0,
        "aten::mm": 2.0,
        "aten::max_pool2d_with_indices_backward": 1.0,
        "aten::native_batch_norm": 0.5,
        "aten::threshold_backward": 0.25,
        "aten::_fused_sgd_": 0.125,
        "aten::nll_loss_forward": 0.0625,
    }
    found = operators.by_kind(seconds)
    assert sum(found.values()) == sum(seconds.values())
    assert found["convolutions"] == 7
    assert found["batch normalisation"] == 0.5
    assert found[operators.REST] == 0.0625


def test_a_table_compares_formats() -> None:
    slow = Profile(0.004, 10**9, {"aten::mkldnn_convolution": 0.002, "aten::mm": 0.001})
    fast = Profile(0.001, 10**9, {"aten::mkldnn_convolution": 0.0005})
    table = operators.comparison_table({"plain fp32": slow, "ours": fast})
    assert "| times as fast as the first | 1.00 | 4.00 |" in table
    assert "| GFLOP/s in convolutions and matrix products | 333 | 2,000 |" in table


def test_a_step_is_profiled() -> None:
    weights = torch.ones(64, 64, requires_grad=True)

    def step() -> torch.Tensor:
        loss = (weights @ weights).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    found = bare_step.profile_steps(step, steps=3)
    assert found.flops == 3 * 2 * 64**3  # the product, and the gradient of each of its factors
    assert found.operators["aten::mm"] > 0
    assert found.seconds > 0
