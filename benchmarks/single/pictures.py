"""How fast pictures become samples: one file, and a folder of them, ours and torchvision's.

    python -m benchmarks.single.pictures [--rounds 5] [--files 400]

Prints two tables in Markdown. The files are JPEGs cut from the two photographs of scikit-learn. Resize and CenterCrop
are those of torchvision's v2. All of a table are measured in turns, with one thread a process; a ratio is the median of
those of single rounds, above 1 where ours is faster. Times of single files are CPU time, which other programs disturb
less. The system has the files in memory.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.io import decode_jpeg, read_file
from torchvision.transforms import v2

from benchmarks.tables import number, table
from dist_train.data import TrainBatches, open_dataset
from dist_train.data.datasets.picture import decode
from dist_train.data.statistics import KNOWN
from dist_train.distributed.world import World
from dist_train.settings.schema import ImageFolderData

SIZE, SIDE = (500, 375), 224
SINGLE = ((SIZE, SIDE), (SIZE, 64), ((4000, 3000), SIDE))
"""Size of a file and side of the sample, for the table of single files."""
PROGRAMS = ("`decode_jpeg`, Resize", "`decode_jpeg`, Resize, CenterCrop", "Pillow, Resize, CenterCrop")
QUALITY, BATCH, WORKERS = 92, 32, 2
NORMALIZE = KNOWN["cifar10"]

Measure = Callable[[], float]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each, in turns")
    parser.add_argument("--files", type=int, default=400, help="pictures in the folder")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(table(["file, sample", "KB", *(f"{name}, us" for name in PROGRAMS), "ours, us", "ratios"], []))
        for size, side in SINGLE:
            print(_measure_single(folder / "single", size, side, options.rounds), flush=True)
        write_folder(folder / "many", options.files)
        print(f"\n{_measure_folder(folder, options.rounds)}")


def write_folder(root: Path, count: int) -> None:
    """Write so many pictures of two classes for training, and one of each for the test."""
    for label in range(2):
        write_pictures(root / "train" / str(label), SIZE, count // 2, label)
        write_pictures(root / "test" / str(label), SIZE, 1, label)


def write_pictures(folder: Path, size: tuple[int, int], count: int, photograph: int) -> list[str]:
    """Write parts of a photograph as JPEGs of one size; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = Image.fromarray(load_sample_images().images[photograph])
    whole = whole.resize((max(whole.width, size[0]), max(whole.height, size[1])))
    random = np.random.default_rng(photograph)
    paths = []
    for index in range(count):
        left, top = (int(random.integers(side - of + 1)) for side, of in zip(whole.size, size, strict=True))
        part = whole.crop((left, top, left + size[0], top + size[1]))
        paths.append(str(folder / f"{size[0]}x{size[1]}-{index}.jpg"))
        part.save(paths[-1], quality=QUALITY)
    return paths


def _measure_single(folder: Path, size: tuple[int, int], side: int, rounds: int) -> str:
    paths = [path for label in range(2) for path in write_pictures(folder / str(label), size, 4, label)]
    scale = v2.Resize(side, antialias=True)
    transform = v2.Compose([scale, v2.CenterCrop(side)])
    programs: tuple[Callable[[str], Any], ...] = (
        lambda path: scale(decode_jpeg(read_file(path))),
        lambda path: transform(decode_jpeg(read_file(path))),
        lambda path: v2.functional.pil_to_tensor(transform(Image.open(path).convert("RGB"))),
        lambda path: decode(path, side),
    )
    found = [[_time(program, paths) for program in programs] for _ in range(rounds)]
    kilobytes = statistics.mean(Path(path).stat().st_size for path in paths) / 1000
    times = [number(statistics.median(column)) for column in zip(*found, strict=True)]
    ratios = [f"{statistics.median(row[other] / row[-1] for row in found):.2f}" for other in range(len(PROGRAMS))]
    return f"| {size[0]}x{size[1]}, {side} | {kilobytes:.0f} | {' | '.join(times)} | {', '.join(ratios)} |"


def _time(program: Callable[[str], Any], paths: Sequence[str]) -> float:
    """Microseconds of CPU time for one file, the least of some passes."""
    passes = []
    for _ in range(5):
        start = time.thread_time()
        for path in paths:
            program(path)
        passes.append(time.thread_time() - start)
    return min(passes) / len(paths) * 1e6


def _measure_folder(folder: Path, rounds: int) -> str:
    ours = ImageFolderData(
        name="image_folder", root=str(folder / "many"), cache=str(folder / "cache"), resize=SIDE, loader="workers",
        workers=WORKERS, global_batch=BATCH, normalize=NORMALIZE,
    )  # fmt: skip
    in_memory = ours.model_copy(update={"loader": "in_memory"})
    theirs = ImageFolder(str(folder / "many" / "train"), _transform())
    found: dict[str, list[float]] = {}
    for number_of_round in range(rounds):
        fresh = in_memory.model_copy(update={"cache": str(folder / f"cache-{number_of_round}")})
        measures: dict[str, Measure] = {
            f"`ImageFolder`, {WORKERS} workers": partial(_rate_of_theirs, theirs),
            f"`loader: workers`, {WORKERS} workers": partial(_rate_of_ours, ours),
            "`loader: in_memory`, first pass, into the cache": partial(_rate_of_opening, fresh),
            "`loader: in_memory`, from the cache": partial(_rate_of_ours, fresh),
        }
        for name, measure in measures.items():
            found.setdefault(name, []).append(measure())
    first, *_ = found.values()
    ratios = (
        statistics.median(one / other for one, other in zip(rates, first, strict=True)) for rates in found.values()
    )
    rows = [
        [name, number(statistics.median(found[name])), f"{ratio:.2f}"]
        for name, ratio in zip(found, ratios, strict=True)
    ]
    return table(["folder", "samples/s", "ratio"], rows)


def _transform() -> v2.Compose:
    return v2.Compose(
        [
            v2.Resize(SIDE, antialias=True),
            v2.CenterCrop(SIDE),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(NORMALIZE.mean, NORMALIZE.std),
        ]
    )


def _rate_of_ours(config: ImageFolderData) -> float:
    dataset = open_dataset(config, 0, World())
    count = len(dataset.train) // BATCH
    with TrainBatches(dataset, config, 0, World(), 0, count, torch.contiguous_format) as batches:
        return _rate(batch.shards[0].passes[0].inputs for batch in batches)


def _rate_of_theirs(dataset: ImageFolder) -> float:
    loader = DataLoader(dataset, BATCH, shuffle=True, num_workers=WORKERS, generator=torch.Generator(), drop_last=True)
    with closing(images for images, _ in loader) as stream:
        return _rate(stream)


def _rate_of_opening(config: ImageFolderData) -> float:
    """Samples per second from the files to the cache, with their digests."""
    start = time.perf_counter()
    dataset = open_dataset(config, 0, World())
    return len(dataset.train) / (time.perf_counter() - start)


def _rate(stream: Iterator[Any]) -> float:
    """Samples per second of an epoch, without the first batch, which waits for the workers to start."""
    next(stream)
    start, count = time.perf_counter(), 0
    for images in stream:
        count += len(images)
    return count / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
