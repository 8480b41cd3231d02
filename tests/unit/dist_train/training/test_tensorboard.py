"""Pictures of evaluations: which samples are shown, what is left out, and how often."""

from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from dist_train.data.batches import EvalBatch
from dist_train.distributed.world import World
from dist_train.settings.loader import load_config
from dist_train.settings.schema import Config
from dist_train.tasks import Evaluation
from dist_train.training.tensorboard import TensorBoard, _choose

CLASSES = ("cat", "dog")
SAMPLES: Any = range(40)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    path = tmp_path / "config.yaml"
    path.write_text("data: {name: digits, global_batch: 10}\nmodel: {name: lenet}\noptim: {lr: 0.1}\n")
    return load_config(path)


def open_board(config: Config) -> tuple[TensorBoard, Mock]:
    dataset = Mock(classes=CLASSES, normalize=None, shape=None)
    dataset.make_example = lambda count: (torch.zeros(count, 4), torch.zeros(count))
    events = Mock()
    return TensorBoard(events, config, dataset, World()), events


def show(board: TensorBoard, inputs: Any, targets: Any, output: Any, is_last: bool = False) -> bool:
    observe = board.begin(SAMPLES, is_last)
    if observe:
        for number in range(4):
            observe(EvalBatch(inputs=inputs, targets=targets, num_samples=10, number=number), output)
    board.write(5, Evaluation("test", {}, [[3, 1], [0, 4]], CLASSES))
    return observe is not None


def state_of(network: nn.Module) -> Any:
    settings = Mock(memory_format=torch.contiguous_format)
    return Mock(network=network, device=torch.device("cpu"), auto_settings=settings, autocast=nullcontext)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 9, 16, 17, 355, 10_000])
def test_samples_of_rank_0_are_spread_evenly(count: int, world_size: int) -> None:
    size = 10
    chosen = _choose(count, size, world_size)
    own = [position for position in range(count) if position // size % world_size == 0]
    positions = [number * size + place for number, place in chosen]
    assert len(positions) == min(len(own), 16)
    assert positions == sorted(set(positions))
    assert set(positions) <= set(own)
    ranks = [own.index(position) for position in positions]
    gaps = {after - before for before, after in pairwise(ranks)}
    assert not gaps or max(gaps) - min(gaps) <= 1


PICTURES, LABELS, LOGITS = torch.rand(10, 3, 8, 8), torch.arange(10) % 2, torch.randn(10, 2)


@pytest.mark.parametrize(
    ("inputs", "targets", "output", "has_samples"),
    [
        (PICTURES, LABELS, LOGITS, True),
        ((LABELS, {"x": PICTURES}), LABELS, LOGITS, True),
        (PICTURES, LOGITS, LOGITS, True),
        (torch.zeros(10, 4), LABELS, LOGITS, False),
        (PICTURES, {"a": LABELS}, LOGITS, False),
        (PICTURES, LABELS, (LOGITS,), False),
        (PICTURES, LABELS, torch.zeros(10, 2, 4, 4), False),
        (PICTURES, LABELS, torch.zeros(()), False),
    ],
)
def test_samples_are_drawn_where_a_caption_can_show_them(
    config: Config, inputs: Any, targets: Any, output: Any, has_samples: bool
) -> None:
    board, events = open_board(config)
    show(board, inputs, targets, output)
    tags = [call.args[:2] for call in events.write_picture.call_args_list]
    assert tags == [(5, "test/confusion_matrix"), *([(5, "test/samples")] if has_samples else [])]


def test_evaluations_without_a_pause_do_not_all_get_pictures(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one does; else they take a small share of the time."""
    now = 100.0
    monkeypatch.setattr("dist_train.training.tensorboard.time.perf_counter", lambda: now)
    board, events = open_board(config)

    def draw(*_: Any) -> None:
        nonlocal now
        now += 0.01

    events.write_picture.side_effect = draw
    drawn = []
    for pause, is_last in ((0.0, False), (1.0, False), (3.0, False), (0.1, False), (0.0, True)):
        now += pause
        drawn.append(show(board, PICTURES, LABELS, LOGITS, is_last))
    assert drawn == [True, False, True, False, True]


def test_a_network_without_a_graph_is_described_all_the_same(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    class Own(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002
            raise KeyError(f"{input.device} is\nnot known")

    board, events = open_board(config)
    with caplog.at_level("INFO", logger="dist_train"):
        board.write_about(state_of(Own(4, 2)))
    assert "TensorBoard: no graph of the network: KeyError: 'cpu is\\nnot known'" in caplog.text
    name, settings, graph = events.write_about.call_args.args
    assert (name, graph) == ("config", [])
    assert settings["optim.lr"] == 0.1
    board.write_about(state_of(nn.Linear(4, 2)))
    assert [node.name for node in events.write_about.call_args.args[2]] == [
        "input",
        "weight",
        "bias",
        "linear",
        "output",
    ]
