"""The samples of a split."""

from pathlib import Path

import torch

from tests.unit.dist_train.data.files import Settings, held_out, labels_of, opened, write_idx


def test_no_rank_holds_an_array_that_counts_up(settings: Settings, root: Path) -> None:
    """Labels are those that the ranks share, and what is left out costs only its own size."""
    write_idx(root)
    whole, part = opened(settings("mnist")), opened(settings("mnist", limit_train=4))
    assert whole.train.chosen is None
    assert held_out(whole).chosen is None
    assert labels_of(whole.train).untyped_storage().nbytes() == 12 * 8
    assert whole.train.numbers(torch.tensor([3, 1], dtype=torch.int32)).tolist() == [3, 1]
    assert part.train.numbers(torch.tensor([3, 1], dtype=torch.int32)).tolist() == [9, 3]
    assert whole.train.numbers(torch.tensor([1], dtype=torch.int32)).dtype == torch.int64


def test_the_first_samples_are_kept(settings: Settings, root: Path) -> None:
    write_idx(root)
    whole, part = opened(settings("mnist")), opened(settings("mnist", limit_train=4))
    assert whole.keep_first(3).train.indices.tolist() == [0, 1, 2]
    assert part.keep_first(3).train.indices.tolist() == [0, 3, 6]
    assert whole.keep_first(100).train.indices.tolist() == list(range(12))
    assert whole.keep_first(3).test == whole.test
