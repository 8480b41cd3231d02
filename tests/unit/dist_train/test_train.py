"""One step: how its gradient is weighted and accumulated, and what it leaves alone."""

from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from dist_train.distributed.world import World
from tests.modules import train
from tests.unit.dist_train.stepper import Stepper, configure, make_batch

BITWISE = ("run.reproducible=bitwise", "distributed.shards=1")


class HalfUsed(nn.Module):
    """A network with a layer that takes no part in the output."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(3, 3)
        self.used = nn.Linear(144, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.used(images.flatten(1))  # type: ignore[no-any-return]


def test_micro_batches_give_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    whole, parts = Stepper(configure(tmp_path)), Stepper(configure(tmp_path))
    assert whole.step(make_batch(8)) == pytest.approx(parts.step(make_batch(8, micro_batch=3)), rel=1e-6)
    for one, other in zip(whole.gradients(), parts.gradients(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_shard_weighs_by_the_global_batch(tmp_path: Path) -> None:
    """DDP averages over ranks, so a rank's gradient is ranks / samples of its sum."""
    alone, third = Stepper(configure(tmp_path)), Stepper(configure(tmp_path))
    third.reduction.averaged_over = 3
    alone.step(make_batch(4))
    third.step(make_batch(4, count=10))
    for one, other in zip(alone.gradients(), third.gradients(), strict=True):
        torch.testing.assert_close(other, one * 4 * 3 / 10, rtol=1e-4, atol=1e-6)


def test_a_placeholder_weighs_nothing(tmp_path: Path) -> None:
    stepper = Stepper(configure(tmp_path))
    assert stepper.step(make_batch(2, num_samples=0, count=1)) == 0
    assert all((gradient == 0).all() for gradient in stepper.gradients())


@pytest.mark.parametrize("overrides", [(), BITWISE], ids=["elastic", "bitwise"])
def test_a_loss_that_is_not_finite_is_found_in_any_micro_batch(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    stepper = Stepper(configure(tmp_path, *overrides))
    spoiled = make_batch(8, micro_batch=4)
    spoiled.shards[0].passes[0].inputs[0] = torch.nan
    for batch, is_finite in ((make_batch(8, micro_batch=4), True), (spoiled, False)):
        stepper.step(batch)
        assert stepper.reduction.is_own_loss_finite() is is_finite


def test_gradients_are_clipped(tmp_path: Path) -> None:
    stepper = Stepper(configure(tmp_path, "train.max_grad_norm=0.01"))
    stepper.step(make_batch(8))
    norm = torch.cat([gradient.flatten() for gradient in stepper.gradients()]).norm().item()
    assert norm == pytest.approx(0.01, rel=1e-3)
    assert stepper.grad_norm is not None
    assert stepper.grad_norm.item() > 0.01


def test_the_norm_is_measured_only_if_it_is_used(tmp_path: Path) -> None:
    stepper = Stepper(configure(tmp_path, "log.ledger=false"))
    stepper.step(make_batch(8))
    assert stepper.grad_norm is None


def test_a_parameter_without_a_gradient_is_left_alone(tmp_path: Path) -> None:
    config = configure(tmp_path, "optim.momentum=0.9", "optim.weight_decay=0.5")
    stepper = Stepper(config, HalfUsed())
    before = stepper.tensors()
    stepper.step(make_batch(8))
    changed = {name for name, tensor in stepper.tensors().items() if not torch.equal(tensor, before[name])}
    assert changed == {"used.weight", "used.bias"}
    resumed = Stepper(config, HalfUsed(), stepper.files())
    for each in (stepper, resumed):
        each.step(make_batch(6))
    assert all(map(torch.equal, stepper.network.parameters(), resumed.network.parameters()))


def test_a_first_step_that_overflows_leaves_no_trace(tmp_path: Path) -> None:
    """In deterministic mode torch fills memory that was never written with NaN."""
    stepper = Stepper(configure(tmp_path, "train.precision=fp16", "optim.momentum=0.9"))
    stepper.state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(40):
            stepper.step(make_batch(8))
    finally:
        torch.use_deterministic_algorithms(False)
    assert stepper.state.optimizer.state
    assert all(bool(parameter.isfinite().all()) for parameter in stepper.network.parameters())


def test_dampening_starts_after_the_first_scaled_step(tmp_path: Path) -> None:
    """As without a scaler: torch's first momentum is the whole gradient."""
    stepper = Stepper(configure(tmp_path, "train.precision=fp16", "optim.momentum=0.9", "optim.dampening=0.5"))
    stepper.step(make_batch(8))
    for parameter in stepper.network.parameters():
        assert parameter.grad is not None
        assert torch.equal(stepper.state.optimizer.state[parameter]["momentum_buffer"], parameter.grad)


def test_the_best_of_an_evaluation_that_an_earlier_start_left_is_saved_before_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Mock(
        is_over=lambda: False,
        has_new_best=True,
        state=Mock(step=4),
        schedule=Mock(total_steps=8),
        next_batch=lambda: None,
    )
    monkeypatch.setattr(train, "open_training", lambda *_: nullcontext(run))
    train.train(configure(tmp_path), World())
    done = [name for name, *_ in run.method_calls if name in ("evaluate", "save", "save_and_stop")]
    assert done == ["evaluate", "save", "save_and_stop"]
