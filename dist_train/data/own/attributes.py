"""Read the optional attributes by which the user's data set describes itself."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from dist_train.errors import DataError
from dist_train.own_code.load import shown_as_own

TARGETS = ("targets", "labels")
FINGERPRINTS = ("fingerprint", "_fingerprint")


def read_classes(dataset: Any) -> tuple[str, ...]:
    """Return `classes`, the names of the classes; or those in the features of Hugging Face; or ().

    Names that occur twice get the number of their class.
    """
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    classes = getattr(dataset, "classes", None)
    features = getattr(dataset, "features", None)
    if classes is None and isinstance(features, Mapping):
        classes = getattr(features.get("label", features.get("labels")), "names", None)
    if not isinstance(classes, Iterable) or isinstance(classes, str):
        return ()
    names = list(map(str, classes))
    counts = Counter(names)  # ImageNet has a bird and a machine of one name
    return tuple(name if counts[name] == 1 else f"{name} ({number})" for number, name in enumerate(names))


def read_fingerprint(dataset: Any) -> str | None:
    """Return `fingerprint`, which changes whenever the data do; or `_fingerprint`, as Hugging Face calls it."""
    found = (getattr(dataset, name, None) for name in FINGERPRINTS)
    return next((str(value) for value in found if isinstance(value, str | int)), None)


def read_labels(dataset: Any) -> Tensor | None:
    """Return `targets`, or `labels`, if it is a whole number for each sample: int64 [N]."""
    for name in TARGETS:
        found = _read_numbers(dataset, name)
        if found is not None and len(found) == len(dataset) and not found.is_floating_point():
            return found.to(torch.int64)
    return None


def read_weights(dataset: Any) -> Tensor | None:
    """Return `weights`, a number for each sample: float64 [N]; raises DataError if there are more or fewer."""
    found = _read_numbers(dataset, "weights")
    if found is None:
        return None
    if len(found) != len(dataset):
        raise DataError(f"the data set has {len(found):,} `weights` and {len(dataset):,} samples; each needs one")
    return found.to(torch.float64)


def _read_numbers(dataset: Any, name: str) -> Tensor | None:
    """Return an attribute that is a sequence of numbers; a Subset has that of its whole data set."""
    if isinstance(dataset, Subset):
        whole = _read_numbers(dataset.dataset, name)
        return None if whole is None else whole[torch.as_tensor(dataset.indices)]
    with shown_as_own(f"the attribute {name} of the data set"):
        value = getattr(dataset, name, None)
    try:
        found = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    return found.cpu() if found.dim() == 1 and not found.is_complex() else None
