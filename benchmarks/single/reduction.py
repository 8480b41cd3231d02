"""What it costs two ranks of one machine to add up their gradients: through Gloo, and in shared memory.

    python -m benchmarks.single.reduction [--ranks 2] [--rounds 15]

In turns: sums of gradients of 0.25, 1.7 and 45 MB (the CIFAR tutorial net, the MNIST example net, ResNet-18), and
whole steps of the MNIST example net at a global batch of 64. Prints medians, and ratios of them.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from dist_train.distributed.reduction import Alone, Average
from dist_train.distributed.shared_memory import SharedMemory, open_shared_memory
from dist_train.distributed.world import World, cores, open_world
from dist_train.models import build_model
from dist_train.settings.schema import Distributed, SmallNet

SIZES = (62_006, 431_080, 11_173_962)
SHAPE, BATCH = (1, 28, 28), 64
BYTES_A_TURN = 30_000_000


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.single.reduction",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    if "RANK" not in os.environ:
        launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={options.ranks}")
        command = (*launcher, "-m", "benchmarks.single.reduction", *sys.argv[1:])
        sys.exit(subprocess.run([sys.executable, *command], check=False).returncode)
    world = open_world(Distributed(backend="gloo"))
    torch.set_num_threads(max(1, cores() // world.local_size))
    memory = open_shared_memory(Distributed(), world)
    if memory is None:
        sys.exit("the ranks can't share memory here")
    for size in SIZES:
        turns = max(1, BYTES_A_TURN // (4 * size))
        compare(f"sum of {4 * size / 1e6:.2f} MB", sums(size, world, memory), turns, options.rounds, world)
    compare("step of the MNIST example net", steps(world, memory), 20, options.rounds, world)
    world.close()


def sums(size: int, world: World, memory: SharedMemory) -> dict[str, Callable[[], object]]:
    flat = torch.zeros(size)
    return {
        "gloo": lambda: world.sum_(flat),
        "shared memory": lambda: memory.sum_(flat),
        "a copy": flat.clone,
    }


def steps(world: World, memory: SharedMemory) -> dict[str, Callable[[], object]]:
    """Steps through the parts of `dist_train`; and, to see what DDP costs, through one sum of one flat gradient."""
    images = torch.randn(BATCH // world.size, *SHAPE).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(len(images), dtype=torch.long)
    alone, flat = Alone(*twice(network()), world), Alone(*twice(network()), world)
    gloo, shared = Average(*twice(network()), world, images), Average(*twice(network()), world, images, memory)

    def summed() -> None:
        memory.sum_(flat.flats[0].tensor, 1 / world.size)

    return {
        "gloo": stepping(gloo, images, labels),
        "shared memory": stepping(shared, images, labels),
        "shared memory, without DDP": stepping(flat, images, labels, summed),
        "nothing added up": stepping(alone, images, labels),
    }


def network() -> nn.Module:
    built = build_model(SmallNet(name="mnist_example"), SHAPE, 10, seed=0)
    return built.to(memory_format=torch.channels_last)


def twice(built: nn.Module) -> tuple[nn.Module, nn.Module]:
    return built, built


def stepping(
    reduction: Alone, images: Tensor, labels: Tensor, after: Callable[[], object] = lambda: None
) -> Callable[[], object]:
    optimizer = torch.optim.SGD(reduction._weights, lr=1e-3, momentum=0.5, fused=True)

    def step() -> None:
        reduction.begin(stop=False, void=False)
        loss = functional.cross_entropy(reduction.model(images), labels)
        reduction.noted(loss, counts=True).backward()  # type: ignore[no-untyped-call]
        reduction.finish()
        after()
        optimizer.step()

    return step


def compare(name: str, ways: dict[str, Callable[[], object]], turns: int, rounds: int, world: World) -> None:
    """Time each way in turn, some times in a row, and print the medians and their ratios to the first."""
    found: dict[str, list[float]] = {way: [] for way in ways}
    for each in range(rounds + 1):
        for way, act in ways.items():
            world.barrier()
            start = time.perf_counter()
            for _ in range(turns):
                act()
            world.barrier()
            if each:  # the first round warms up
                found[way].append((time.perf_counter() - start) / turns * 1e3)
    medians = {way: statistics.median(times) for way, times in found.items()}
    first = next(iter(medians.values()))
    for way, median in medians.items():
        spread = f"{min(found[way]):.3f} to {max(found[way]):.3f}"
        if world.is_main:
            print(f"{name}: {way:27} {median:8.3f} ms ({spread}), {first / median:.2f} x gloo", flush=True)


if __name__ == "__main__":
    main()
