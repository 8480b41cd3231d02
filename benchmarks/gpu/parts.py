"""One part of `benchmarks.gpu.check`, in a process of its own.

python -m benchmarks.gpu.parts tests --device cuda --sheet FILE --folder DIR
"""

import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.compare.session import torchrun
from benchmarks.compare.workloads import WORKLOADS, Workload
from benchmarks.gpu import speed
from benchmarks.gpu.checkpoint import save, stall, state, time_calls
from benchmarks.gpu.ddp import train_by
from benchmarks.gpu.rows import Sheet
from benchmarks.gpu.speed import Setup
from benchmarks.processes import ROOT, run
from benchmarks.rounds import Spread
from dist_train.monitoring.metrics import read_lines

PRECISIONS = ("fp32", "tf32", "bf16")
COMPILED = (
    *(("bf16", workload) for workload in ("small", "mnist", "tutorial", "resnet")),
    *(("fp32", workload) for workload in ("small", "mnist", "tutorial", "resnet")),
    *(("tf32", workload) for workload in ("small", "mnist", "tutorial", "resnet")),
)
"""What is compiled, the most important first: the time may not be enough for all."""
PROFILED = ("small", "resnet")
UNIT = "samples/s"
NO_TF32 = "a CPU has no TF32"


@dataclass(frozen=True)
class PartRun:
    """A part that is running: its setup, and the sheet of its rows."""

    setup: Setup
    sheet: Sheet

    def measure(self, name: str, measured: Callable[[], Spread], unit: str = UNIT, note: str = "") -> None:
        """Add the row of a measurement; or that it failed, with its traceback in the log."""
        self.setup.reset()
        try:
            found = measured()
        except Exception as error:
            self.add_failed(name, error)
        else:
            self.add_measured(name, found, unit, note)

    def add_measured(self, name: str, spread: Spread, unit: str = UNIT, note: str = "") -> None:
        """Add the row of a measurement, with the peak memory since `Setup.reset`."""
        value, low, high, _ = spread
        memory = self.setup.memory()
        self.sheet.add(name, "measured", value=value, low=low, high=high, unit=unit, memory=memory, note=note)

    def of(self, name: str) -> "PartRun":
        """The same setup, with rows that belong to another part."""
        return PartRun(self.setup, Sheet(self.sheet.path, name))

    def add_skipped(self, names: Iterable[str], reason: str) -> None:
        for name in names:
            self.sheet.add(name, "skipped", note=reason)

    def add_failed(self, name: str, error: Exception) -> None:
        """Add the row of a failure, its traceback in the log; or of a skip, if a package is missing."""
        if isinstance(error, ModuleNotFoundError):
            self.add_skipped([name], f"{error.name} is not installed")
            return
        traceback.print_exc()
        self.sheet.add(name, "failed", note=(str(error).strip() or repr(error)).splitlines()[-1][:300])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.parts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", choices=("facts", *FUNCTIONS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--sheet", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=600.0, help="time limit of the part")
    given = parser.parse_args()
    if given.part == "facts":
        given.sheet.write_text(json.dumps(facts()), encoding="utf-8")
        return
    device = torch.device("cuda", 0) if given.device == "cuda" else torch.device("cpu")
    setup = Setup(device, given.folder, 2.5 if given.device == "cuda" else 0.3)
    FUNCTIONS[given.part](PartRun(setup, Sheet(given.sheet, given.part)))


def facts() -> dict[str, Any]:
    """Versions, driver and GPU; `gpu` is None if torch finds none."""
    found: dict[str, Any] = {"gpu": None, "python": platform.python_version(), "torch": str(torch.__version__)}
    found["CUDA"] = torch.version.cuda or "torch is built without it"
    found["platform"] = platform.platform()
    found["cores"] = len(os.sched_getaffinity(0))
    if not torch.cuda.is_available():
        return found
    properties = torch.cuda.get_device_properties(0)
    return found | {
        "gpu": properties.name,
        "gpus": torch.cuda.device_count(),
        "compute capability": f"{properties.major}.{properties.minor}",
        "memory": f"{properties.total_memory / 2**30:.0f} GiB",
        "driver": _driver(),
        "cuDNN": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "NCCL": ".".join(map(str, torch.cuda.nccl.version())),  # type: ignore[no-untyped-call]
    }


def _driver() -> str:
    if (command := shutil.which("nvidia-smi")) is None:
        return "unknown: there is no nvidia-smi"
    asked = [command, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown: {error}"
    return done.stdout.split("\n")[0].strip()


def run_group(part: PartRun) -> None:
    """Run a collective and an ordinary run in a process group of torchrun."""
    collective = "an all_reduce of 64 MiB"
    digits = "the digits by torchrun" if importlib.util.find_spec("sklearn") else "synthetic images by torchrun"
    part.sheet.plan([collective, digits])
    backend = "nccl" if part.setup.on_gpu else "gloo"
    part.measure(collective, lambda: _all_reduce(part.setup, backend), "ms", f"{backend}, one rank")
    try:
        accuracy = _train_digits(part.setup, backend)
    except Exception as error:
        part.add_failed(digits, error)
        return
    outcome = "passed" if accuracy >= 0.97 else "failed"
    part.sheet.add(digits, outcome, note=f"{backend}, one rank: test accuracy {100 * accuracy:.2f} %")  # type: ignore[arg-type]


def _all_reduce(setup: Setup, backend: str) -> Spread:
    answer = setup.folder / "all_reduce.json"
    run([*torchrun(sys.executable, 1), "-m", "benchmarks.gpu.group", backend, str(answer)], timeout=60)
    return Spread.of(json.loads(answer.read_text(encoding="utf-8")))


def _train_digits(setup: Setup, backend: str) -> float:
    """Test accuracy of an ordinary run under torchrun."""
    directory = setup.folder / "digits"
    synthetic = ["data.name=synthetic", "data.num_train=1442", "data.num_test=355", "data.shape=[1, 8, 8]"]
    own = [] if importlib.util.find_spec("sklearn") else synthetic
    config = str(ROOT / "configs" / "digits.yaml")
    asked = [f"distributed.backend={backend}", f"run.dir={directory}", "train.epochs=10", *speed.tensorboard_setting()]
    cache = f"data.cache={setup.folder / 'cache'}"
    run([*torchrun(sys.executable, 1), "-m", "dist_train", config, *asked, cache, *own], timeout=120)
    return float([line for line in read_lines(directory / "metrics.jsonl") if line["kind"] == "eval"][-1]["accuracy"])


def run_ddp(part: PartRun) -> None:
    """Train by DistributedDataParallel, and compare the losses with those of one process."""
    cases = [
        (f"{backend}, {ranks} rank(s){', compiled' if compiled else ''}", backend, ranks, compiled)
        for compiled in (False, True)
        for backend, ranks in (("nccl", 1), ("gloo", 2))
    ]
    part.sheet.plan(name for name, *_ in cases)
    expected = train_by("", 1, part.setup, compiled=False)
    for name, backend, ranks, compiled in cases:
        if not part.setup.on_gpu and (backend == "nccl" or compiled):
            part.add_skipped([name], "on a GPU only")
            continue
        try:
            found = train_by(backend, ranks, part.setup, compiled=compiled)
        except Exception as error:
            part.add_failed(name, error)
            continue
        worst = max(abs(one / other - 1) for one, other in zip(found, expected, strict=True))
        outcome = "passed" if worst < 5e-3 else "failed"
        part.sheet.add(name, outcome, note=f"losses differ from those of one process by at most {100 * worst:.3g} %")  # type: ignore[arg-type]


def measure_profile(part: PartRun) -> None:
    """Count the kernels of a step, and how long the GPU is busy with them; the table of kernels is in the log."""
    from benchmarks.gpu.profile import profile_steps

    what = "kernels and copies a step" if part.setup.on_gpu else "operations a step"
    part.sheet.plan(f"{each}: {name}" for each in PROFILED for name in (what, "the device is busy"))
    for each in PROFILED:
        if each == "resnet" and not part.setup.on_gpu:
            part.add_skipped((f"{each}: {name}" for name in (what, "the device is busy")), "too long on a CPU")
            continue
        part.setup.reset()
        try:
            found = profile_steps(WORKLOADS[each], part.setup, 42 if part.setup.on_gpu else 5)
        except Exception as error:
            part.add_failed(f"{each}: {what}", error)
            continue
        print(found.table)
        part.sheet.add(f"{each}: {what}", "measured", value=found.launches)
        part.sheet.add(f"{each}: the device is busy", "measured", value=100 * found.busy, unit="% of the time")


def run_tests(part: PartRun) -> None:
    """Run `tests/gpu/test_gpu.py`, each test a row."""
    if not importlib.util.find_spec("pytest"):
        part.sheet.add("tests/gpu", "skipped", note="pytest is not installed")
        return
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # warnings of other plugins would be errors here
    import pytest

    base = part.setup.folder / "tests"
    arguments = ["-p", "no:cacheprovider", f"--basetemp={base}", "-q", str(ROOT / "tests" / "gpu" / "test_gpu.py")]
    pytest.main(arguments, plugins=[_Outcomes(part.sheet)])


class _Outcomes:
    """Plugin of pytest that adds a row for each test as soon as it has ended."""

    def __init__(self, sheet: Sheet) -> None:
        self._sheet = sheet

    def pytest_collection_finish(self, session: Any) -> None:
        self._sheet.plan(item.name for item in session.items)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self._sheet.add(report.nodeid, "failed", note=report.longreprtext.splitlines()[-1])

    def pytest_runtest_logreport(self, report: Any) -> None:
        name = report.nodeid.partition("::")[2]
        if report.failed:
            self._sheet.add(name, "failed", note=_reason(report))
        elif report.skipped:
            self._sheet.add(name, "skipped", note=str(report.longrepr[2]).removeprefix("Skipped: "))
        elif report.when == "call":
            self._sheet.add(name, "passed")


def _reason(report: Any) -> str:
    """The first line of the error; the rest is in the log."""
    lines = [line for line in report.longreprtext.splitlines() if line.startswith("E ")]
    first: str = (lines or report.longreprtext.splitlines() or [report.when])[0]
    return first.removeprefix("E").strip()[:300]


def measure_throughput(workload: Workload, part: PartRun) -> None:
    """Measure ours and the bare step in each precision, and plain PyTorch."""
    names = ["plain fp32", "plain bf16", *(f"{who} {each}" for each in PRECISIONS for who in ("bare", "ours"))]
    part.sheet.plan(names)
    precisions = PRECISIONS if part.setup.on_gpu else ("fp32", "bf16")
    for precision in precisions:
        part.measure(f"bare {precision}", partial(speed.measure_bare, workload, part.setup, precision))
        asked = f"train.precision={precision}"
        part.measure(f"ours {precision}", partial(speed.measure_ours, workload, part.setup, asked))
    part.add_skipped(
        (f"{who} {each}" for each in PRECISIONS if each not in precisions for who in ("bare", "ours")), NO_TF32
    )
    _plain(workload, part)


def _plain(workload: Workload, part: PartRun) -> None:
    """Measure plain PyTorch with its best number of workers, in fp32 and bf16."""
    setup = part.setup
    setup.reset()
    try:
        counts = speed.worker_counts() if setup.on_gpu else (0,)
        rates = {workers: speed.measure_plain(workload, setup, workers) for workers in counts}
    except Exception as error:
        for name in ("plain fp32", "plain bf16"):
            part.add_failed(name, error)
        return
    best = max(rates, key=lambda workers: rates[workers].median)
    part.add_measured("plain fp32", rates[best], note=f"{best} workers; torch's default: convolutions in TF32")
    bf16 = partial(speed.measure_plain, workload, setup, best, torch.bfloat16)
    part.measure("plain bf16", bf16, note=f"{best} workers, autocast")


def measure_checkpoint(part: PartRun) -> None:
    """Measure how long a step of ResNet-18 waits for a checkpoint, and plain copies of the same tensors."""
    names = ("the step waits", "the step waits, asynchronous off", "a copy", "a copy to pinned memory")
    to_disk = "torch.save and fsync"
    part.sheet.plan([*names, to_disk])
    setup, workload = part.setup, WORKLOADS["resnet"]
    part.measure(names[0], partial(stall, workload, setup, "checkpoint.asynchronous=true"), "ms")
    part.measure(names[1], partial(stall, workload, setup, "checkpoint.asynchronous=false"), "ms")
    tensors = state(workload, setup)
    megabytes = f"{sum(tensor.nbytes for tensor in tensors) / 1e6:.0f} MB"
    part.measure(
        names[2], lambda: time_calls(setup, lambda: [each.to("cpu", copy=True) for each in tensors]), "ms", megabytes
    )
    if setup.on_gpu:
        pinned = [torch.empty_like(each, device="cpu", pin_memory=True) for each in tensors]
        copies = list(zip(pinned, tensors, strict=True))
        part.measure(
            names[3],
            lambda: time_calls(setup, lambda: [one.copy_(other, non_blocking=True) for one, other in copies]),
            "ms",
        )
    else:
        part.sheet.add(names[3], "skipped", note="on a GPU only")
    part.measure(to_disk, lambda: time_calls(setup, lambda: save(tensors, setup.folder / "state.pt")), "ms")


def measure_compiled(part: PartRun) -> None:
    """Measure ours with a compiled network; each row belongs to the part of its workload."""
    todo = [(f"ours {precision} compiled", precision, workload) for precision, workload in COMPILED]
    for name, _, workload in todo:
        part.of(workload).sheet.plan([name])
    for name, precision, workload in todo:
        own = part.of(workload)
        if not part.setup.on_gpu:
            own.sheet.add(name, "skipped", note="only on a GPU")
            continue
        torch._dynamo.reset()
        asked = (f"train.precision={precision}", "train.compile=model")
        own.measure(
            name, partial(speed.measure_ours, WORKLOADS[workload], part.setup, *asked), note="train.compile=model"
        )


FUNCTIONS: dict[str, Callable[[PartRun], None]] = {
    "group": run_group,
    "ddp": run_ddp,
    "profile": measure_profile,
    "tests": run_tests,
    **{name: partial(measure_throughput, workload) for name, workload in WORKLOADS.items()},
    "checkpoint": measure_checkpoint,
    "compiled": measure_compiled,
}

if __name__ == "__main__":
    main()
