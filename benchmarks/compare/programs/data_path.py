"""Measure how many images a second reach a step: our batches, and torchvision's transforms with a DataLoader.

    python -m benchmarks.compare.programs.data_path [--rounds 5] [--batch 128] [--threads 2] [--json FILE]

Random CIFAR-sized images with crop, flip and normalisation; nothing trains. From memory: our images in memory, and a
data set of arrays with `torchvision.transforms.v2` and 0 or 2 workers. From JPEG files: our loader `workers`, and
`ImageFolder`, both with 2 workers. Each is measured once a round, and ratios are taken by round. Needs no network and
about a minute.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from dist_train.data import Dataset, TrainBatches, open_dataset
from dist_train.data.statistics import KNOWN
from dist_train.distributed.world import World
from dist_train.settings.schema import Augment, Data, ImageFolderData, SyntheticData

NORMALIZE = KNOWN["cifar10"]
AUGMENT = Augment(crop_padding=4, flip=True)
IMAGES = 8192
FILES = 5120
SMALL = 4
"""Images in the small batch."""

Rate = Callable[[], float]


class Arrays(TorchDataset[Any]):
    """Images as in torchvision's CIFAR10: each becomes a PIL image and goes through the transforms."""

    def __init__(self, dataset: Dataset) -> None:
        ((images, labels),) = dataset.train.read(torch.arange(len(dataset.train)), epoch=0)
        self._arrays = images.permute(0, 2, 3, 1).contiguous().numpy()
        self._labels = labels.tolist()
        self._transform = transform()

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self._transform(Image.fromarray(self._arrays[index])), self._labels[index]


def transform() -> v2.Compose:
    return v2.Compose(
        [
            v2.RandomCrop(32, padding=4),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(NORMALIZE.mean, NORMALIZE.std),
        ]
    )


def main() -> None:
    """Measure and print; with `--json` write the numbers."""
    options = _parse()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        rates = _rates(Path(folder), options.batch)
        found: dict[str, list[float]] = {name: [] for name in rates}
        for number in range(options.rounds):
            for name, rate in rates.items():
                found[name].append(rate())
                print(f"{number + 1}: {name:32s} {found[name][-1]:11,.0f} images/s", flush=True)
    _print_medians(found)
    if options.json:
        about = {"torch": torch.__version__, "threads": options.threads, "batch": options.batch}
        options.json.write_text(json.dumps({"about": about, "images_per_second": found}, indent=1), encoding="utf-8")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare.programs.data_path", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _rates(folder: Path, batch: int) -> dict[str, Rate]:
    """The measurements by name; each returns images a second."""
    memory = SyntheticData(
        name="synthetic", root=str(folder), cache=str(folder / "cache"), shape=(3, 32, 32), num_train=IMAGES,
        global_batch=batch, augment=AUGMENT, normalize=NORMALIZE,
    )  # fmt: skip
    synthetic = open_dataset(memory, 0, World())
    small = memory.model_copy(update={"global_batch": SMALL})
    files = ImageFolderData(
        name="image_folder", root=str(folder / "files"), cache=str(folder / "cache"), loader="workers", workers=2,
        global_batch=batch, augment=AUGMENT, normalize=NORMALIZE,
    )  # fmt: skip
    _write(synthetic, folder / "files")
    read = open_dataset(files, 0, World())
    theirs = ImageFolder(str(folder / "files" / "train"), transform())
    return {
        "memory: ours": partial(_ours, synthetic, memory, 300),
        "memory: ours, channels_last": partial(_ours, synthetic, memory, 300, torch.channels_last),
        f"memory: ours, batch {SMALL}": partial(_ours, synthetic, small, 3000),
        "memory: torchvision, 0 workers": partial(_theirs, Arrays(synthetic), 0, batch, 12),
        "memory: torchvision, 2 workers": partial(_theirs, Arrays(synthetic), 2, batch, 32),
        "files: ours, 2 workers": partial(_ours, read, files, FILES // batch - 1),
        "files: ImageFolder, 2 workers": partial(_theirs, theirs, 2, batch, FILES // batch - 1),
    }


def _write(dataset: Dataset, root: Path) -> None:
    """Write some of the images as JPEG files in folders of their classes."""
    assert dataset.test  # noqa: S101
    for split, samples, count in (("train", dataset.train, FILES), ("test", dataset.test, 10)):
        for name in dataset.classes:
            (root / split / name).mkdir(parents=True)
        ((images, labels),) = samples.read(torch.arange(count), epoch=0)
        images = images.permute(0, 2, 3, 1).numpy()
        for number, (pixels, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            Image.fromarray(pixels).save(root / split / dataset.classes[label] / f"{number}.jpg", quality=90)
        for name in dataset.classes:  # a class may have none of the few test images
            Image.fromarray(images[0]).save(root / split / name / "first.jpg")


def _ours(
    dataset: Dataset, config: Data, count: int, memory_format: torch.memory_format = torch.contiguous_format
) -> float:
    with TrainBatches(dataset, config, 0, World(), 0, count + 1, memory_format) as batches:
        return _rate((batch.shards[0].passes[0].inputs for batch in batches), count)


def _theirs(dataset: TorchDataset[Any], workers: int, batch: int, count: int) -> float:
    loader = DataLoader(dataset, batch, shuffle=True, num_workers=workers, generator=torch.Generator())
    with closing(images for images, _ in loader) as stream:
        return _rate(stream, count)


def _rate(batches: Iterable[torch.Tensor], count: int) -> float:
    """Images a second over `count` batches after the first, which waits for the workers to start."""
    stream: Iterator[torch.Tensor] = iter(batches)
    next(stream)
    start = time.perf_counter()
    images = sum(len(next(stream)) for _ in range(count))
    return images / (time.perf_counter() - start)


def _print_medians(found: dict[str, list[float]]) -> None:
    for name, rates in found.items():
        low, median, high = min(rates), statistics.median(rates), max(rates)
        print(f"{name:32s} {median:11,.0f} images/s  ({low:,.0f} to {high:,.0f}, n {len(rates)})")
    best = [max(pair) for pair in zip(*(found[f"memory: torchvision, {n} workers"] for n in (0, 2)), strict=True)]
    for name, ours, other in (
        ("memory, against the better of torchvision", found["memory: ours"], best),
        ("files, against ImageFolder", found["files: ours, 2 workers"], found["files: ImageFolder, 2 workers"]),
    ):
        ratios = [one / two for one, two in zip(ours, other, strict=True)]
        print(f"{name}: {statistics.median(ratios):.1f} times ({min(ratios):.1f} to {max(ratios):.1f})")
    small = statistics.median(found[f"memory: ours, batch {SMALL}"])
    print(f"a batch of {SMALL}: {SMALL / small * 1e6:.0f} microseconds")


if __name__ == "__main__":
    main()
