"""What `auto` is decided to be, and that a checkpoint's decisions stand."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn

from dist_train import choices as room
from dist_train.choices import Choices, apply_to_process, choose, convolution_work
from dist_train.config import Distributed, Train
from dist_train.errors import CheckpointError
from dist_train.world import World

CONVOLUTION, TINY, LINEAR = 10**9, 10**6, 0
STORED = Choices("fp32", channels_last=True, threads=3, local_size=1)


@pytest.fixture(autouse=True)
def eight_cores_without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "cores", lambda: 8)
    monkeypatch.setattr(room, "_made_for_bf16", lambda _: False)


def test_a_first_start_decides_everything() -> None:
    found = choose(Train(), Distributed(), World(local_size=2), CONVOLUTION, None)
    assert found == Choices("fp32", channels_last=True, threads=4, local_size=2)


def test_there_is_always_a_thread() -> None:
    assert choose(Train(), Distributed(), World(local_size=9), CONVOLUTION, None).threads == 1


def test_what_is_set_is_taken() -> None:
    train, distributed = Train(precision="bf16", channels_last="off"), Distributed(threads=5)
    found = choose(train, distributed, World(), CONVOLUTION, None)
    assert found == Choices("bf16", channels_last=False, threads=5, local_size=1)
    assert choose(Train(channels_last="on"), distributed, World(), LINEAR, None).channels_last


def test_channels_last_is_for_convolutions() -> None:
    assert not choose(Train(), Distributed(), World(), LINEAR, None).channels_last


def test_small_convolutions_are_torch_s_own_and_never_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_made_for_bf16", lambda _: True)
    found = choose(Train(precision="auto"), Distributed(), World(), TINY, None)
    assert found == Choices("fp32", channels_last=False, threads=8, local_size=1, onednn=False)
    assert choose(Train(onednn="on"), Distributed(), World(), TINY, None).onednn
    assert choose(Train(channels_last="on"), Distributed(), World(), TINY, None).onednn
    assert choose(Train(precision="bf16"), Distributed(), World(), TINY, None).onednn


def test_a_checkpoint_of_before_onednn_was_chosen_has_it() -> None:
    before = {"precision": "fp32", "channels_last": True, "threads": 3, "local_size": 1}
    assert choose(Train(), Distributed(), World(), TINY, before).onednn


def test_the_work_of_a_network_is_that_of_its_largest_convolution() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert convolution_work(network, (1, 8, 8)) == 4 * 4 * 4 * (2 * 9)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert network.training
    assert convolution_work(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), (1, 8, 8)) == 0


@pytest.mark.parametrize(("made_for_it", "precision"), [(True, "bf16"), (False, "fp32")])
def test_automatic_precision_follows_the_hardware(
    monkeypatch: pytest.MonkeyPatch, made_for_it: bool, precision: str
) -> None:
    monkeypatch.setattr(room, "_made_for_bf16", lambda _: made_for_it)
    assert choose(Train(precision="auto"), Distributed(), World(), LINEAR, None).precision == precision


def test_stored_choices_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_made_for_bf16", lambda _: True)
    train = Train(precision="auto")
    assert choose(train, Distributed(), World(), LINEAR, STORED.to_dict()) == STORED
    assert choose(
        train, Distributed(), World(), CONVOLUTION, replace(STORED, channels_last=False).to_dict()
    ) == replace(STORED, channels_last=False)


def test_settings_stand_above_stored_choices() -> None:
    found = choose(Train(channels_last="off"), Distributed(threads=2), World(), CONVOLUTION, STORED.to_dict())
    assert found == Choices("fp32", channels_last=False, threads=2, local_size=1)


def test_threads_are_decided_anew_for_another_number_of_ranks() -> None:
    found = choose(Train(), Distributed(), World(local_size=4), CONVOLUTION, STORED.to_dict())
    assert (found.threads, found.local_size) == (2, 4)


def test_another_precision_than_the_checkpoint_s_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"train\.precision is bf16, but the checkpoint was trained in fp32"):
        choose(Train(precision="bf16"), Distributed(), World(), LINEAR, STORED.to_dict())


def test_choices_as_torch_has_them() -> None:
    assert STORED.memory_format is torch.channels_last
    assert replace(STORED, channels_last=False).memory_format is torch.contiguous_format
    dtypes = [replace(STORED, precision=precision).autocast_dtype for precision in ("fp32", "bf16", "fp16")]
    assert dtypes == [None, torch.bfloat16, torch.float16]


@pytest.fixture
def process_settings() -> Iterator[None]:
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.mark.usefixtures("process_settings")
@pytest.mark.parametrize("deterministic", [False, True])
def test_choices_are_applied(deterministic: bool) -> None:
    apply_to_process(STORED, deterministic, torch.device("cpu"))
    assert torch.get_num_threads() == 3
    assert torch.are_deterministic_algorithms_enabled() == deterministic
