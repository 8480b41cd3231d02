"""Rows of numbers as data sets of tensors with scaled inputs."""

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from dist_train.data.datasets import line, table
from dist_train.data.identity import TableFormat
from dist_train.data.own.stacking import compute_digest
from dist_train.data.samples import SplitName
from dist_train.data.selection import choose_samples
from dist_train.data.source import RowSplits
from dist_train.errors import DataError
from dist_train.settings.schema import LineData, RowData, TableData


def open_rows(
    config: RowData, seed: int, stored: TableFormat | None
) -> tuple[dict[SplitName, TensorDataset], TableFormat]:
    """Read all splits; an item is (inputs, target), float [columns] and [].

    Args:
        stored: the format of the run that is resumed or evaluated; default: measured on the training rows.

    Raises:
        DataError: the rows can't be read, or have other columns than those of the run.
    """
    if isinstance(config, LineData):
        found, kind = line.find(config, seed), "none"
    else:
        assert isinstance(config, TableData)  # noqa: S101
        found, kind = table.find(config, seed, stored), config.scale
    form = stored or _measure(found, kind, choose_samples(len(found.splits["train"]), config, seed)[0])
    return {split: _to_dataset(rows, form) for split, rows in found.splits.items()}, form


def _measure(found: RowSplits, kind: str, chosen: Tensor | None) -> TableFormat:
    """Find how the inputs are scaled, by the training rows that are chosen; None: all of them."""
    inputs = found.splits["train"][:, :-1]
    inputs = inputs if chosen is None else inputs[chosen]
    low, high = inputs.amin(dim=0), inputs.amax(dim=0)
    shift, scale = {
        "none": (torch.zeros_like(low), torch.ones_like(low)),
        "minmax": (low, high - low),
        "standard": (inputs.mean(dim=0), inputs.std(dim=0, correction=0)),
    }[kind]
    scale = torch.where(high > low, scale, 1.0)  # a column of equal numbers is not scaled
    return TableFormat(found.columns, found.target, tuple(shift.tolist()), tuple(scale.tolist()))


def _to_dataset(rows: Tensor, form: TableFormat) -> TensorDataset:
    inputs, targets = form.scale_inputs(rows[:, :-1]), rows[:, -1].to(torch.get_default_dtype())
    if not torch.isfinite(inputs).all():
        raise DataError("data.scale: some inputs become infinite; remove columns with numbers that are this large")
    dataset = TensorDataset(inputs, targets)
    dataset.fingerprint = compute_digest(rows)  # type: ignore[attr-defined]
    return dataset
