"""Muon against torch's, which takes matrices only."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dist_train.optim.muon import Muon

IS_NEW = "muon" in torch.optim._muon.__all__
"""Whether torch has `spectral_unclamped`, and updates bfloat16 without Nesterov's momentum as it says."""
ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"nesterov": False, "momentum": 0.5, "weight_decay": 0.0},
    {"ns_steps": 3, "ns_coefficients": (3.0, -4.0, 2.0), "eps": 1e-3},
    {"adjust_lr_fn": "original"},
    {"adjust_lr_fn": "match_rms_adamw"},
    {"adjust_lr_fn": "spectral_unclamped"},
]


def stepped(kind: type[torch.optim.Optimizer], weights: Tensor, gradients: list[Tensor], **arguments: Any) -> Tensor:
    parameter = nn.Parameter(weights.clone(memory_format=torch.preserve_format))
    optimizer: Any = kind([parameter], lr=0.1, **arguments)  # type: ignore[call-arg]
    for gradient in gradients:
        parameter.grad = gradient
        optimizer.step()
    return parameter.detach()


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=dtype) for _ in range(4)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (4, 4), (1, 5)], ids=str)
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=lambda arguments: ",".join(arguments) or "defaults")
def test_matrices_are_updated_as_by_torch_bit_for_bit(
    arguments: dict[str, Any], shape: tuple[int, int], dtype: torch.dtype
) -> None:
    is_mended = dtype == torch.bfloat16 and not arguments.get("nesterov", True)
    if not IS_NEW and (is_mended or arguments.get("adjust_lr_fn") == "spectral_unclamped"):
        pytest.skip("this torch's own does not do it")
    weights, *gradients = draw(*shape, dtype=dtype)
    expected = stepped(torch.optim.Muon, weights, gradients, **arguments)
    assert torch.equal(stepped(Muon, weights, gradients, **arguments), expected)
    assert not torch.equal(expected, weights)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_filter_is_updated_as_the_matrix_with_a_row_per_output(memory_format: torch.memory_format) -> None:
    weights, *gradients = (each.to(memory_format=memory_format) for each in draw(6, 4, 3, 3))
    expected = stepped(torch.optim.Muon, weights.flatten(1), [gradient.flatten(1) for gradient in gradients])
    found = stepped(Muon, weights, gradients)
    assert torch.equal(found.flatten(1), expected)
    assert found.stride() == weights.stride()


def test_a_parameter_without_a_gradient_is_left_alone() -> None:
    parameters = [nn.Parameter(torch.ones(2, 2)) for _ in range(2)]
    parameters[0].grad = torch.eye(2)
    optimizer = Muon(parameters)
    optimizer.step()
    assert set(optimizer.state) == {parameters[0]}
    assert bool((parameters[1] == 1).all())
