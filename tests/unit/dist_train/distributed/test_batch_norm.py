"""Synchronised batch normalisation against torch's own of the whole batch; each rank is a thread here."""

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from functools import partial
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from dist_train.distributed.batch_norm import SynchronisedBatchNorm, has_batch_norm
from dist_train.execution.lazy_dynamo import backward

CHANNELS = 3
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "mean of all batches": {"momentum": None},
    "without weights": {"affine": False},
    "without running statistics": {"track_running_stats": False},
    "neither": {"affine": False, "track_running_stats": False},
}
LAYERS = {
    "rows": (nn.BatchNorm1d, ()),
    "1d": (nn.BatchNorm1d, (5,)),
    "2d": (nn.BatchNorm2d, (4, 3)),
    "3d": (nn.BatchNorm3d, (2, 3, 2)),
}


class Ranks:
    """Threads that sum tensors as ranks do."""

    def __init__(self, shares: list[int]) -> None:
        self.shares = shares
        self._sent: list[Tensor] = [torch.empty(0)] * len(shares)
        self._barrier = Barrier(len(shares), timeout=20)

    def context(self, rank: int) -> SynchronisedBatchNorm:
        def sum_(own: Tensor) -> None:
            self._sent[rank] = own.clone()
            self._barrier.wait()
            own.copy_(torch.stack(self._sent).sum(0))
            self._barrier.wait()

        found = SynchronisedBatchNorm(sum_, rank, len(self.shares))
        found.has_samples = self.shares[rank] > 0
        return found

    def run(self, network: nn.Module, batches: list[Tensor]) -> list[tuple[nn.Module, list[Tensor], list[Tensor]]]:
        """Return each rank's network, outputs and gradients of the inputs; a rank without samples has placeholders."""

        def run_rank(rank: int) -> tuple[nn.Module, list[Tensor], list[Tensor]]:
            own, outputs, gradients = deepcopy(network), [], []
            for batch in batches:
                share = torch.split(batch, self.shares)[rank]
                inputs = (share if len(share) else batch[:2]).clone().requires_grad_()
                with self.context(rank):
                    output = own(inputs)
                    backward(loss(output).sum(), torch.tensor(float(len(share) > 0)).to(output))
                assert inputs.grad is not None
                outputs.append(output.detach()[: len(share)])
                gradients.append(inputs.grad[: len(share)])
            return own, outputs, gradients

        with ThreadPoolExecutor(len(self.shares)) as pool:
            return list(pool.map(run_rank, range(len(self.shares))))


def loss(output: Tensor) -> Tensor:
    return (output - 0.3).pow(3) + output.sin()


def run_alone(network: nn.Module, batches: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return outputs and gradients of the inputs; the network has those of its weights."""
    outputs, gradients = [], []
    for batch in batches:
        inputs = batch.clone().requires_grad_()
        outputs.append(network(inputs))
        loss(outputs[-1]).sum().backward()  # type: ignore[no-untyped-call]
        assert inputs.grad is not None
        gradients.append(inputs.grad)
    return outputs, gradients


def check(network: nn.Module, shares: list[int], *shape: int, dtype: torch.dtype = torch.float64) -> None:
    """Compare two steps of some ranks with those of one process."""
    torch.manual_seed(3)
    network = network.to(dtype)
    batches = [torch.randn(sum(shares), CHANNELS, *shape, dtype=dtype) * 2 + 50 for _ in range(2)]
    of_ranks = Ranks(shares).run(network, batches)
    outputs, gradients = run_alone(network, batches)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-3
    assert_close = partial(torch.testing.assert_close, rtol=tolerance, atol=tolerance)
    for step in range(2):
        assert_close(torch.cat([found[1][step] for found in of_ranks]), outputs[step])
        assert_close(torch.cat([found[2][step] for found in of_ranks]), gradients[step])
    for own, _, _ in of_ranks:
        assert own.state_dict().keys() == network.state_dict().keys()
        assert_close(list(own.buffers()), list(network.buffers()))
    for name, parameter in network.named_parameters():
        total = sum(own.get_parameter(name).grad for own, _, _ in of_ranks)  # type: ignore[misc]
        assert_close(total, parameter.grad)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", LAYERS)
def test_statistics_and_gradients_are_those_of_the_whole_batch(kind: str, way: str) -> None:
    layer, shape = LAYERS[kind]
    network = nn.Sequential(layer(CHANNELS, **WAYS[way]), nn.Tanh(), layer(CHANNELS, eps=0.1, **WAYS[way]))
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    check(network, [4, 3, 3], *shape)


@pytest.mark.parametrize("shares", [[2, 0, 0], [1, 1, 1], [5, 4], [3]], ids=str)
def test_shares_may_be_unequal_and_empty(shares: list[int]) -> None:
    check(nn.Sequential(nn.BatchNorm1d(CHANNELS), nn.Linear(CHANNELS, CHANNELS), nn.BatchNorm1d(CHANNELS)), shares)


def test_fp32_keeps_the_digits_of_a_small_variance() -> None:
    check(nn.BatchNorm2d(CHANNELS), [3, 2], 4, 4, dtype=torch.float32)


class Unusual(nn.Module):
    """A layer of a library: normalisation and activation in one; in a block that is computed again."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = WithActivation(CHANNELS)
        self.frozen = nn.BatchNorm1d(CHANNELS).eval()

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = checkpoint(self.norm, inputs, use_reentrant=False)
        return self.frozen(outputs)  # type: ignore[no-any-return]


class WithActivation(nn.BatchNorm1d):
    def forward(self, inputs: Tensor) -> Tensor:
        normalised = functional.batch_norm(
            inputs, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, self.eps
        )
        return normalised.tanh()


def test_layers_of_libraries_and_checkpointed_blocks() -> None:
    check(Unusual(), [4, 2, 1])


def test_a_single_value_leaves_finite_statistics() -> None:
    layer = nn.BatchNorm1d(CHANNELS)
    (_, outputs, _), (other, _, _) = Ranks([1, 0]).run(layer, [torch.ones(1, CHANNELS).expand(1, -1)])
    assert outputs[0].abs().max() == 0
    assert all(buffer.isfinite().all() for buffer in other.buffers())


@pytest.mark.parametrize("channels_last", [False, True])
def test_bf16_is_rounded_and_its_statistics_are_not(channels_last: bool) -> None:
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(CHANNELS)
    images = (torch.randn(6, CHANNELS, 4, 4) + 3).bfloat16()
    images = images.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    ranks = Ranks([4, 2]).run(layer, [images])
    outputs, gradients = run_alone(layer, [images])
    assert ranks[0][1][0].dtype == ranks[0][2][0].dtype == torch.bfloat16
    torch.testing.assert_close(torch.cat([found[1][0] for found in ranks]), outputs[0], rtol=0.02, atol=0.02)
    torch.testing.assert_close(torch.cat([found[2][0] for found in ranks]), gradients[0], rtol=0.05, atol=0.05)
    torch.testing.assert_close(list(ranks[1][0].buffers()), list(layer.buffers()), rtol=1e-4, atol=1e-4)


def test_the_rank_whose_values_are_not_finite_is_known() -> None:
    ranks = Ranks([2, 2])
    batch = torch.arange(12.0).view(4, CHANNELS)
    batch[3] = torch.nan

    def run_rank(rank: int) -> bool | None:
        context = ranks.context(rank)
        with context:
            nn.Sequential(nn.BatchNorm1d(CHANNELS), nn.BatchNorm1d(CHANNELS))(torch.split(batch, 2)[rank])
        return context.is_own_finite()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(run_rank, range(2))) == [True, False]


def test_networks_with_layers_that_normalise_over_a_batch() -> None:
    assert has_batch_norm(nn.Sequential(nn.Sequential(WithActivation(2))))
    assert not has_batch_norm(nn.Sequential(nn.LayerNorm(2), nn.GroupNorm(1, 2), nn.InstanceNorm2d(2)))
