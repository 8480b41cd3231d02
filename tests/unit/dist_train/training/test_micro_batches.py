"""A shard is cut into nearly equal parts for gradient accumulation."""

from dist_train.settings.schema import Train
from dist_train.training.micro_batches import micro_batches
from tests.unit.dist_train.stepper import make_batch


def sizes(size: int, train: Train, num_samples: int | None = None) -> list[tuple[int, int, bool]]:
    shard = make_batch(size, num_samples=num_samples, count=size).shards[0]
    parts = list(micro_batches(shard, train))
    assert all(len(inputs) == num_samples for inputs, _, num_samples, _ in parts)
    return [(len(inputs), len(targets), is_last) for inputs, targets, _, is_last in parts]


def test_parts_are_at_most_as_large_as_asked_for() -> None:
    assert sizes(8, Train(micro_batch=3)) == [(3, 3, False), (3, 3, False), (2, 2, True)]
    assert sizes(8, Train(micro_batch=8)) == [(8, 8, True)]
    assert sizes(8, Train()) == [(8, 8, True)]


def test_synchronised_statistics_see_no_placeholder() -> None:
    assert sizes(2, Train(sync_batchnorm=True), num_samples=0) == [(0, 0, True)]
    assert sizes(2, Train(sync_batchnorm=True)) == [(2, 2, True)]
    assert sizes(2, Train(), num_samples=0) == [(2, 2, True)]
