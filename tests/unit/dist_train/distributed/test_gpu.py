"""Which GPU a rank has, and which sums NCCL may use, before any GPU is asked."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from dist_train.distributed.gpu import check_own_gpu, pin_nccl, select_gpu
from dist_train.errors import WorldError

PINNED = {"NCCL_NVLS_ENABLE": "0", "NCCL_ALGO": "Ring", "NCCL_PROTO": "Simple"}


@pytest.mark.parametrize(
    ("count", "local_rank", "local_size", "index"),
    [(1, 0, 1, 0), (4, 0, 1, 0), (4, 3, 4, 3), (8, 2, 4, 2), (1, 3, 4, 0)],
)
def test_a_rank_has_the_gpu_of_its_number_or_the_only_one(
    count: int, local_rank: int, local_size: int, index: int
) -> None:
    assert select_gpu(count, local_rank, local_size) == torch.device("cuda", index)


def test_more_ranks_than_gpus_are_refused() -> None:
    with pytest.raises(WorldError, match=r"4 ranks were started on a machine with 2 GPUs.*--nproc-per-node=2.*gloo"):
        select_gpu(2, 0, 4)


@pytest.mark.parametrize(
    ("gpus", "fault"), [("abcd", None), ("abca", "rank 0 and rank 3 have the same GPU"), ("aa", "rank 0 and rank 1")]
)
def test_ranks_that_see_one_gpu_each_have_different_ones(
    monkeypatch: pytest.MonkeyPatch, gpus: str, fault: str | None
) -> None:
    store = dist.HashStore()  # type: ignore[attr-defined]
    found = {torch.device("cuda", rank): SimpleNamespace(uuid=gpu) for rank, gpu in enumerate(gpus)}
    monkeypatch.setattr(torch.cuda, "get_device_properties", found.__getitem__)

    def check(rank: int) -> str | None:
        try:
            check_own_gpu(store, torch.device("cuda", rank), rank, len(gpus))
        except WorldError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(len(gpus)) as ranks:
        answers = set(ranks.map(check, range(len(gpus))))
    (answer,) = answers
    assert answer is None if fault is None else answer is not None and answer.startswith(fault)


@pytest.mark.parametrize(
    "given",
    [{}, {"NCCL_ALGO": "Tree"}, {"NCCL_ALGO": "^NVLS,NVLSTree"}, {"NCCL_PROTO": "LL128"}, {"NCCL_NVLS_ENABLE": "0"}],
)
def test_nccl_adds_up_in_a_fixed_order_and_keeps_what_is_set(given: dict[str, str]) -> None:
    environ = dict(given)
    assert pin_nccl(environ) == environ == {**PINNED, **given}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NCCL_NVLS_ENABLE", "1"),
        ("NCCL_NVLS_ENABLE", "2"),
        ("NCCL_ALGO", "NVLS"),
        ("NCCL_ALGO", "allreduce:ring,NVLSTree"),
    ],
)
def test_sums_without_a_fixed_order_are_refused(name: str, value: str) -> None:
    with pytest.raises(WorldError, match=f"{name} is {value}, .*no fixed order.*unset it, or set it to {PINNED[name]}"):
        pin_nccl({name: value})
