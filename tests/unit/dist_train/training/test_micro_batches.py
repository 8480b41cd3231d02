"""The passes of a shard, and what of a placeholder is passed."""

from dist_train.settings.schema import Train
from dist_train.training.micro_batches import micro_batches
from tests.unit.dist_train.stepper import make_batch


def sizes(train: Train, size: int, num_samples: int | None = None, limit: int | None = None) -> list[tuple[int, bool]]:
    shard = make_batch(size, num_samples=num_samples, count=size, micro_batch=limit).shards[0]
    parts = list(micro_batches(shard, train))
    assert all(len(inputs) == len(targets) == num_samples for inputs, targets, num_samples, _ in parts)
    return [(num_samples, is_last) for _, _, num_samples, is_last in parts]


def test_the_last_pass_is_known() -> None:
    assert sizes(Train(), 8, limit=3) == [(3, False), (3, False), (2, True)]
    assert sizes(Train(), 8) == [(8, True)]


def test_synchronised_statistics_see_no_placeholder() -> None:
    assert sizes(Train(sync_batchnorm=True), 2, num_samples=0) == [(0, True)]
    assert sizes(Train(sync_batchnorm=True), 2) == [(2, True)]
    assert sizes(Train(), 2, num_samples=0) == [(2, True)]
