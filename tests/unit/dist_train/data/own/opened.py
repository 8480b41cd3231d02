"""Open and read the user's data sets in tests."""

from pathlib import Path
from typing import Any

from dist_train.data import Batch, Dataset, TrainBatches, open_dataset
from dist_train.distributed.world import World
from dist_train.settings.schema import OwnData

SETS = Path(__file__).with_name("sets.py")
SEED = 3


def configure(name: str, collate: str | None = None, **other: Any) -> OwnData:
    """Settings for a data set in `sets.py`; what is no setting is an argument of it."""
    settings = {key: other.pop(key) for key in tuple(other) if key in OwnData.model_fields and key != "args"}
    given = {"name": f"{SETS}:{name}", "collate": collate and f"{SETS}:{collate}", "args": other}
    return OwnData.model_validate({"global_batch": 4, "workers": 0, **given, **settings})


def opened(config: OwnData, world: World | None = None) -> Dataset:
    return open_dataset(config, SEED, world or World())


def train(
    config: OwnData,
    world: World | None = None,
    steps: tuple[int, int] = (0, 6),
    shards: int | None = None,
    micro_batch: int | None = None,
) -> list[Batch]:
    """The batches of one rank in some steps."""
    world = world or World()
    stream = TrainBatches(opened(config, world), config, SEED, world, *steps, shards=shards, micro_batch=micro_batch)
    with stream:
        return list(stream)
