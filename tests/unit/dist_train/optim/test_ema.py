"""The moving average of parameters against its closed form."""

import pytest
import torch
from torch import Tensor, nn

from dist_train.optim.ema import ParameterAverage


def test_the_average_has_its_closed_form() -> None:
    model, decay, steps = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double(), 0.9, 12
    images = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)
    average = ParameterAverage(model, decay)
    history = [nn.utils.parameters_to_vector(model.parameters()).detach().clone()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        model(images).square().sum().backward()
        optimizer.step()
        history.append(nn.utils.parameters_to_vector(model.parameters()).detach().clone())
        average.update()
    expected = decay**steps * history[0]
    for step, weights in enumerate(history[1:], start=1):
        expected = expected + (1 - decay) * decay ** (steps - step) * weights
    found = nn.utils.parameters_to_vector(average.network.parameters())
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert torch.equal(nn.utils.parameters_to_vector(model.parameters()).detach(), history[-1])
    assert not any(weight.requires_grad for weight in average.network.parameters())


def test_all_buffers_of_one_kind_are_copied_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[set[torch.dtype]] = []
    copy = torch._foreach_copy_

    def copy_and_note(targets: list[Tensor], sources: list[Tensor]) -> None:
        calls.append({tensor.dtype for tensor in (*targets, *sources)})
        copy(targets, sources)

    monkeypatch.setattr(torch, "_foreach_copy_", copy_and_note)
    average = ParameterAverage(nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3)), 0.9)
    average.update()
    assert calls == [{torch.float32}, {torch.int64}], "of mixed types torch copies one by one"


def test_the_average_has_the_newest_buffers() -> None:
    model = nn.BatchNorm1d(3)
    average = ParameterAverage(model, 0.9)
    for _ in range(3):
        model(torch.randn(8, 3) + 5)
        average.update()
    for (name, found), expected in zip(average.network.named_buffers(), model.buffers(), strict=True):
        assert torch.equal(found, expected), name
    assert int(average.network.get_buffer("num_batches_tracked")) == 3
