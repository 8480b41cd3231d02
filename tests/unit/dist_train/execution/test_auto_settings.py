"""What `auto` is decided to be, and that a checkpoint keeps its decisions."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn

from dist_train.distributed.world import World
from dist_train.errors import CheckpointError, ConfigError
from dist_train.execution import auto_settings as room
from dist_train.execution.auto_settings import (
    AutoSettings,
    Convolutions,
    apply_to_process,
    decide,
    measure_convolutions,
)
from dist_train.settings.schema import Distributed, Train

CONVOLUTION, TINY, LINEAR = (
    Convolutions(work, samples, samples) for work, samples in ((10**6, 64), (10**6, 3), (0, 64))
)
ON_GPU = World(device=torch.device("cuda", 0))
STORED = AutoSettings("fp32", channels_last=True, threads=3, local_size=1)


@pytest.fixture(autouse=True)
def eight_cores_without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "count_cores", lambda: 8)
    monkeypatch.setattr(room, "_is_made_for_bf16", lambda _: False)


def test_a_first_start_decides_everything() -> None:
    found = decide(Train(), Distributed(), World(local_size=2), CONVOLUTION, None)
    assert found == AutoSettings("fp32", channels_last=True, threads=4, local_size=2, sync_batchnorm=True)


def test_there_is_always_a_thread() -> None:
    assert decide(Train(), Distributed(), World(local_size=9), CONVOLUTION, None).threads == 1


def test_what_is_set_is_taken() -> None:
    train, distributed = Train(precision="bf16", channels_last="off", sync_batchnorm=False), Distributed(threads=5)
    found = decide(train, distributed, World(), CONVOLUTION, None)
    assert found == AutoSettings("bf16", channels_last=False, threads=5, local_size=1)
    assert decide(Train(channels_last="on"), distributed, World(), LINEAR, None).channels_last


def test_channels_last_is_for_convolutions() -> None:
    assert not decide(Train(), Distributed(), World(), LINEAR, None).channels_last


def test_small_convolutions_are_torch_s_own_and_never_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_is_made_for_bf16", lambda _: True)
    found = decide(Train(precision="auto"), Distributed(), World(), TINY, None)
    assert found == AutoSettings(
        "fp32", channels_last=False, threads=8, local_size=1, onednn=False, sync_batchnorm=True
    )
    assert decide(Train(onednn="on"), Distributed(), World(), TINY, None).onednn
    assert decide(Train(channels_last="on"), Distributed(), World(), TINY, None).onednn
    assert decide(Train(precision="bf16"), Distributed(), World(), TINY, None).onednn


@pytest.mark.parametrize(("work", "samples", "small"), [(10**6, 3, True), (10**6, 5, False), (10**4, 16, False)])
def test_small_is_little_work_on_few_samples(work: int, samples: int, small: bool) -> None:
    assert Convolutions(work, samples, 64).are_small is small
    assert Convolutions(work, 64, samples).are_small_on_one_rank is small


def test_the_number_of_ranks_does_not_change_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_is_made_for_bf16", lambda _: True)
    train = Train(precision="auto")
    found = [decide(train, Distributed(), World(), Convolutions(10**4, samples, 24), None) for samples in (24, 12)]
    assert [(each.precision, each.onednn) for each in found] == [("bf16", True)] * 2


def test_a_checkpoint_of_before_onednn_was_chosen_has_it() -> None:
    before = {"precision": "fp32", "channels_last": True, "threads": 3, "local_size": 1}
    assert decide(Train(), Distributed(), World(), TINY, before).onednn


def test_the_work_of_a_network_is_that_of_each_convolution() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert measure_convolutions(network, torch.zeros(1, 1, 8, 8)) == [2 * 6 * 6 * 9, 4 * 4 * 4 * (2 * 9)]
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert network.training
    assert measure_convolutions(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), torch.zeros(1, 1, 8, 8)) == []


@pytest.mark.parametrize(("made_for_it", "precision"), [(True, "bf16"), (False, "fp32")])
def test_automatic_precision_follows_the_hardware(
    monkeypatch: pytest.MonkeyPatch, made_for_it: bool, precision: str
) -> None:
    monkeypatch.setattr(room, "_is_made_for_bf16", lambda _: made_for_it)
    assert decide(Train(precision="auto"), Distributed(), World(), LINEAR, None).precision == precision


def test_stored_choices_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_is_made_for_bf16", lambda _: True)
    train = Train(precision="auto")
    assert decide(train, Distributed(), World(), LINEAR, STORED.to_dict()) == STORED
    assert decide(
        train, Distributed(), World(), CONVOLUTION, replace(STORED, channels_last=False).to_dict()
    ) == replace(STORED, channels_last=False)


def test_decisions_of_a_newer_version_are_refused() -> None:
    assert AutoSettings.from_dict(STORED.to_dict()) == STORED
    with pytest.raises(CheckpointError, match=r"newer version of dist-train, which chose tiles too; install"):
        decide(Train(), Distributed(), World(), CONVOLUTION, {**STORED.to_dict(), "tiles": 4})


def test_decisions_that_no_longer_exist_are_dropped() -> None:
    assert AutoSettings.from_dict({**STORED.to_dict(), "steps_together": 8}) == STORED


def test_settings_stand_above_stored_choices() -> None:
    found = decide(Train(channels_last="off"), Distributed(threads=2), World(), CONVOLUTION, STORED.to_dict())
    assert found == AutoSettings("fp32", channels_last=False, threads=2, local_size=1)


@pytest.mark.parametrize(
    ("train", "shards", "before", "expected"),
    [
        (Train(), None, None, True),
        (Train(), 8, None, False),
        (Train(micro_batch=4), None, None, False),
        (Train(micro_batch=4), None, True, False),
        (Train(compile="model"), None, None, False),
        (Train(), None, False, False),
        (Train(), None, True, True),
        (Train(sync_batchnorm=True), None, False, True),
        (Train(sync_batchnorm=False), None, True, False),
    ],
)
def test_batch_normalisation_is_synchronised_where_the_loss_is_then_the_same(
    train: Train, shards: int | None, before: bool | None, expected: bool
) -> None:
    stored = None if before is None else replace(STORED, sync_batchnorm=before).to_dict()
    assert decide(train, Distributed(), World(), LINEAR, stored, shards).sync_batchnorm is expected


def test_threads_are_decided_anew_for_another_number_of_ranks() -> None:
    found = decide(Train(), Distributed(), World(local_size=4), CONVOLUTION, STORED.to_dict())
    assert (found.threads, found.local_size) == (2, 4)


def test_memory_is_shared_where_it_can_be() -> None:
    world = World(size=2, local_size=2)
    assert decide(Train(), Distributed(), world, LINEAR, None, can_share=True).shared_memory
    assert not decide(Train(), Distributed(), world, LINEAR, None, can_share=False).shared_memory


@pytest.mark.parametrize("before", [False, True])
def test_sums_stay_where_they_were_made(before: bool) -> None:
    """But where the number of ranks changes, or their order changes no bits, and never where it is not possible."""
    stored = replace(STORED, local_size=2, shared_memory=before).to_dict()
    two, three = World(size=2, local_size=2), World(size=3, local_size=3)
    assert decide(Train(), Distributed(), two, LINEAR, stored, can_share=True).shared_memory is before
    assert decide(Train(), Distributed(), three, LINEAR, stored, can_share=True).shared_memory
    assert decide(Train(), Distributed(), two, LINEAR, stored, shards=8, can_share=True).shared_memory
    assert not decide(Train(), Distributed(), two, LINEAR, stored, can_share=False).shared_memory


def test_checkpoints_of_before_went_through_the_backend() -> None:
    stored = {key: value for key, value in STORED.to_dict().items() if key != "shared_memory"}
    assert not decide(Train(), Distributed(), World(), LINEAR, stored, can_share=True).shared_memory


def test_another_precision_than_the_checkpoint_s_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"train\.precision is bf16, but the checkpoint was trained in fp32"):
        decide(Train(precision="bf16"), Distributed(), World(), LINEAR, STORED.to_dict())


def test_tf32_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"train\.precision is tf32.*this rank is on the CPU; use auto, fp32 or bf16"):
        decide(Train(precision="tf32"), Distributed(), World(), CONVOLUTION, None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    with pytest.raises(ConfigError, match="this rank is on Tesla T4"):
        decide(Train(precision="tf32"), Distributed(), ON_GPU, CONVOLUTION, None)


def test_tf32_is_taken_where_there_is_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    found = decide(Train(precision="tf32"), Distributed(), ON_GPU, CONVOLUTION, None)
    assert (found.precision, found.channels_last, found.autocast_dtype) == ("tf32", True, None)


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "fp32"), ((8, 0), "tf32"), ((9, 0), "tf32")])
def test_unset_precision_is_tf32_on_gpus_that_have_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], precision: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    found = decide(Train(), Distributed(), ON_GPU, CONVOLUTION, None)
    assert found.precision == precision
    assert str(found).startswith(f"{precision}, ")
    assert decide(Train(precision="fp32"), Distributed(), ON_GPU, CONVOLUTION, None).precision == "fp32"


@pytest.mark.parametrize("stored", ["fp32", "tf32", "bf16", "fp16"])
def test_unset_precision_stays_what_the_run_began_with(monkeypatch: pytest.MonkeyPatch, stored: str) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    before = replace(STORED, precision=stored).to_dict()
    assert decide(Train(), Distributed(), ON_GPU, LINEAR, before).precision == stored
    on_cpu = decide(Train(), Distributed(), World(), LINEAR, before).precision
    assert on_cpu == ("fp32" if stored == "tf32" else stored), "a GPU's run continues where there is no TF32"


def test_choices_as_torch_has_them() -> None:
    assert STORED.memory_format is torch.channels_last
    assert replace(STORED, channels_last=False).memory_format is torch.contiguous_format
    dtypes = [replace(STORED, precision=precision).autocast_dtype for precision in ("fp32", "bf16", "fp16")]
    assert dtypes == [None, torch.bfloat16, torch.float16]


@pytest.fixture
def process_settings() -> Iterator[None]:
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    is_filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = is_filled  # type: ignore[attr-defined]


@pytest.mark.usefixtures("process_settings")
@pytest.mark.parametrize("deterministic", [False, True])
def test_choices_are_applied(deterministic: bool) -> None:
    apply_to_process(STORED, deterministic, torch.device("cpu"))
    assert torch.get_num_threads() == 3
    assert torch.are_deterministic_algorithms_enabled() == deterministic
