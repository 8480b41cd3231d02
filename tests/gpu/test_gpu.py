"""What only a GPU can show. `make gpu-check` runs this; where torch finds no GPU every test is skipped.

One process makes many runs, because it takes seconds to start torch on a GPU.
"""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_train.data import open_dataset
from dist_train.distributed.world import World
from dist_train.monitoring import ledger, ledger_comparison
from dist_train.monitoring.metrics import read_lines
from dist_train.settings.loader import load_config
from tests.conftest import ROOT, Python, Ranks

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here"),
]

CONFIG = """
data: {name: synthetic, num_train: 288, num_test: 500, global_batch: 24}
model: {name: mnist_cnn}
optim: {name: adam, lr: 0.002, schedule: onecycle}
train: {max_steps: 12}
eval: {every_epochs: 0}
checkpoint: {every_steps: 4, keep_last: 100}
log: {every_steps: 1, tensorboard: false}
"""
# All that changes weights or bits. The last batch of an epoch has 4 samples, so of 8 shards some are empty.
EVERYTHING = """
data: {name: synthetic, num_train: 184, num_test: 70, global_batch: 30, validation: 0.0,
       augment: {crop_padding: 2, flip: true, cutout: 6}}
model: {name: mnist_example, dropout: 0.3}
optim: {name: sgd, lr: 0.02, momentum: 0.9, schedule: cosine, warmup_epochs: 0.5}
train: {epochs: 3, micro_batch: 16, ema_decay: 0.8, max_grad_norm: 1.0}
loss: {name: cross_entropy, args: {label_smoothing: 0.1}}
run: {deterministic: true}
checkpoint: {every_steps: 3, keep_last: 100}
log: {every_steps: 3, tensorboard: false, weights_every_steps: 1}
"""
# Long enough to be killed in its middle.
LONG = """
data: {name: synthetic, num_train: 1000, num_test: 70, global_batch: 32}
model: {name: mnist_cnn, dropout: 0.2}
optim: {name: adam, lr: 0.001}
train: {max_steps: 2000}
run: {deterministic: true}
eval: {every_epochs: 0}
checkpoint: {every_steps: 200, keep_last: 3}
log: {every_steps: 100, tensorboard: false}
"""
# Each step alike: another size of the last batch would be another size to allocate.
STEADY = """
data: {name: synthetic, num_train: 640, num_test: 70, global_batch: 32,
       augment: {crop_padding: 2, flip: true, cutout: 6}}
model: {name: mnist_example, dropout: 0.3}
optim: {name: sgd, lr: 0.02, momentum: 0.9, schedule: cosine}
train: {max_steps: 100, ema_decay: 0.9, max_grad_norm: 1.0}
eval: {every_epochs: 0}
checkpoint: {every_steps: 50}
log: {every_steps: 10, weights_every_steps: 20, tensorboard: false}
"""
CONFIGS = {"config": CONFIG, "everything": EVERYTHING, "long": LONG, "steady": STEADY}
MODES = {
    "fp32": ["train.precision=fp32"],
    "unset": [],
    "tf32": ["train.precision=tf32"],
    "bf16": ["train.precision=bf16"],
    "auto": ["train.precision=auto"],
    "fp16": ["train.precision=fp16", "train.max_grad_norm=5.0"],
}
COMPILED = {"model": ["train.compile=model", "train.precision=fp32"]}
EXACT = {
    "fp32": ["train.precision=fp32"],
    "bf16": ["train.precision=bf16"],
    "bitwise": ["run.reproducible=bitwise", "train.micro_batch=3"],
}
HAS_BF16 = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
needs_ampere = pytest.mark.skipif(not HAS_BF16, reason="the GPU has no bf16 and no tf32")


class Runs:
    """Runs below one directory, which share a cache."""

    def __init__(self, directory: Path, python: Python) -> None:
        self.directory, self._python = directory, python
        for name, text in CONFIGS.items():
            (directory / f"{name}.yaml").write_text(text)

    def path(self, name: str) -> Path:
        return self.directory / name

    def arguments(self, config: str, name: str, *overrides: str) -> list[str]:
        cache = f"data.cache={self.directory / 'cache'}"
        return [str(self.directory / f"{config}.yaml"), f"run.dir={self.path(name)}", cache, *overrides]

    def do(self, jobs: list[dict[str, Any]], device: str) -> None:
        """Do jobs of tests/programs/runs.py, `device` being `auto` or `gloo`, in a process of their own."""
        file = self.directory / "jobs.json"
        file.write_text(json.dumps(jobs))
        done = self._python("tests/programs/runs.py", str(file), device, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr

    def manifest(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path(name) / "checkpoints/latest/manifest.json").read_text())
        return found

    def weights(self, name: str) -> str:
        return str(self.manifest(name)["weights_sha256"])

    def losses(self, name: str) -> list[float]:
        return [line["loss"] for line in read_lines(self.path(name) / "metrics.jsonl") if line["kind"] == "train"]

    def environment(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path(name) / "env.json").read_text())
        return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, python: Python) -> Runs:
    """The same training on the CPU and, in each precision, on the GPU."""
    runs = Runs(tmp_path_factory.mktemp("gpu"), python)
    modes = {name: settings for name, settings in MODES.items() if HAS_BF16 or name not in ("tf32", "bf16")}
    runs.do([{"train": runs.arguments("config", "cpu")}], "gloo")
    runs.do([{"train": runs.arguments("config", name, *settings)} for name, settings in modes.items()], "auto")
    return runs


@pytest.fixture(scope="module")
def exact(runs: Runs) -> Runs:
    """Runs in deterministic mode, each made twice: at a stretch, and going on from a checkpoint."""
    jobs: list[dict[str, Any]] = []
    for name, settings in EXACT.items():
        if HAS_BF16 or name != "bf16":
            jobs.append({"train": runs.arguments("everything", f"exact-{name}", *settings)})
            cut = {"cut": str(runs.path(f"exact-{name}")), "to": str(runs.path(f"resumed-{name}")), "step": 9}
            jobs += [cut, {"train": runs.arguments("everything", f"resumed-{name}", *settings)}]
    runs.do(jobs, "auto")
    return runs


def test_the_runs_were_on_the_gpu(runs: Runs) -> None:
    assert runs.environment("fp32")["device"] == torch.cuda.get_device_name()
    assert runs.environment("cpu")["device"] == "cpu"


# TF32 keeps 10 bits of a mantissa, bf16 7; a dozen steps of Adam carry a difference on.
@pytest.mark.parametrize(
    ("mode", "tolerance"),
    [
        ("fp32", 1e-3),
        pytest.param("tf32", 2e-2, marks=needs_ampere),
        pytest.param("bf16", 5e-2, marks=needs_ampere),
        ("fp16", 2e-2),
    ],
)
def test_a_gpu_trains_what_the_cpu_trains(runs: Runs, mode: str, tolerance: float) -> None:
    on_cpu = runs.losses("cpu")
    assert len(on_cpu) == 12
    assert max(on_cpu) > 1.2 * min(on_cpu), "the curve has to move, or any two would agree"
    assert runs.losses(mode) == pytest.approx(on_cpu, rel=tolerance)


@needs_ampere
def test_precisions_differ(runs: Runs) -> None:
    assert len({runs.weights(name) for name in ("fp32", "tf32", "bf16", "fp16")}) == 4


def test_automatic_precision_is_bf16(runs: Runs) -> None:
    choices = runs.environment("auto")["choices"]
    assert choices["precision"] == ("bf16" if HAS_BF16 else "fp32")
    assert choices["channels_last"] == HAS_BF16


def test_unset_precision_is_tf32(runs: Runs) -> None:
    assert runs.environment("unset")["choices"]["precision"] == ("tf32" if HAS_BF16 else "fp32")
    if HAS_BF16:
        assert runs.weights("unset") != runs.weights("fp32")


def test_the_versions_of_the_gpus_libraries_are_recorded(runs: Runs) -> None:
    environment = runs.environment("fp32")
    assert {"cudnn", "nccl", "driver"} <= set(environment)
    assert environment["driver"] != "unknown"
    saved = torch.load(runs.path("fp32") / "checkpoints/latest/training.pt", weights_only=True)
    assert saved["machine"]["driver"] == environment["driver"]


def test_a_network_without_deterministic_kernels_is_refused_before_anything_is_written(
    runs: Runs, python: Python
) -> None:
    pytest.importorskip("torchvision")
    asked = ["model.name=torchvision/alexnet", "run.deterministic=true", "data.shape=[3, 64, 64]"]
    config = runs.directory / "alexnet.yaml"
    config.write_text(CONFIG.replace("model: {name: mnist_cnn}\n", ""))
    done = python("-m", "dist_train", str(config), f"run.dir={runs.path('alexnet')}", *asked)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "no deterministic kernel for adaptive_avg_pool2d_backward_cuda (layer avgpool)" in done.stderr
    assert not runs.path("alexnet").exists()


def test_fp16_scales_its_loss(runs: Runs) -> None:
    saved = torch.load(runs.path("fp16") / "checkpoints/latest/training.pt", weights_only=True)
    assert saved["scaler_state_dict"]["scale"] > 1


def test_images_are_resident_on_the_gpu(runs: Runs) -> None:
    config = load_config(Path(runs.arguments("config", "in_memory")[0]), runs.arguments("config", "in_memory")[1:])
    dataset = open_dataset(config.data, config.run.seed, World(device=torch.device("cuda", 0)))
    assert dataset.loader == "in_memory"
    assert dataset.train.source.device == torch.device("cuda", 0)


def test_a_checkpoint_of_a_gpu_opens_on_the_cpu(runs: Runs) -> None:
    for name in ("model.pt", "training.pt"):
        content = torch.load(runs.path("fp32") / "checkpoints/latest" / name, weights_only=True)
        assert devices_in(content) == {"cpu"}, name


def devices_in(content: Any) -> set[str]:
    if isinstance(content, torch.Tensor):
        return {content.device.type}
    values = content.values() if isinstance(content, dict) else content if isinstance(content, list | tuple) else ()
    return set().union(*map(devices_in, values))


def test_an_evaluation_on_a_gpu_counts_what_one_on_the_cpu_counts(runs: Runs, python: Python) -> None:
    """Of one checkpoint; but for near ties, of which 500 samples have hardly any."""
    command = ("-m", "dist_train.evaluate", str(runs.path("fp32")), "--json")
    on_gpu, on_cpu = (counted(python, *command, *more) for more in ((), ("distributed.backend=gloo",)))
    assert on_gpu["count"] == on_cpu["count"] == 500
    assert abs(on_gpu["correct"] - on_cpu["correct"]) <= 2
    assert on_gpu["loss"] == pytest.approx(on_cpu["loss"], rel=1e-4)


def counted(python: Python, *command: str) -> dict[str, Any]:
    done = python(*command)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("settings", [[], ["train.precision=auto"], ["train.precision=fp16"]], ids=" ".join)
def test_the_host_waits_in_no_steady_step(runs: Runs, python: Python, settings: list[str]) -> None:
    name = "-".join(["steady", *settings])
    done = python("tests/programs/unsynced.py", *runs.arguments("steady", name, *settings))
    assert done.returncode == 0, done.stdout + done.stderr
    # All but 1 to 4, and the one after the save at 50; a line of metrics or a hash of the weights waits for nothing.
    assert "watched 95 steps" in done.stdout


@pytest.mark.parametrize("mode", ["fp32", pytest.param("bf16", marks=needs_ampere), "bitwise"])
def test_a_resumed_run_ends_with_the_same_bits(exact: Runs, mode: str) -> None:
    undisturbed, resumed = (ledger.read(exact.path(f"{name}-{mode}") / "ledger.jsonl") for name in ("exact", "resumed"))
    assert ledger_comparison.compare(undisturbed, resumed).divergence is None
    assert exact.weights(f"resumed-{mode}") == exact.weights(f"exact-{mode}")
    assert len({line["weights"] for line in undisturbed}) == len(undisturbed) == 21


def test_a_group_of_one_ends_with_the_bits_of_a_process_without_one(exact: Runs, torchrun: Ranks) -> None:
    done = torchrun(1, "-m", "dist_train", *exact.arguments("everything", "nccl", *EXACT["fp32"]))
    assert done.returncode == 0, done.stderr
    assert exact.environment("nccl")["backend"] == "nccl"
    assert exact.weights("nccl") == exact.weights("exact-fp32")


def test_a_killed_run_ends_with_the_same_bits(runs: Runs, python: Python) -> None:
    runs.do([{"train": runs.arguments("long", "whole")}], "auto")
    killed = [*runs.arguments("long", "killed"), "run.name=long"]
    process = subprocess.Popen(
        [sys.executable, "-m", "dist_train", *killed], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for_step(runs.path("killed"), 400, process)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL, "it had ended before"
    assert runs.manifest("killed")["step"] < 2000
    done = python("-m", "dist_train", *killed)
    assert done.returncode == 0, done.stderr
    assert "continues at step" in done.stdout
    assert runs.weights("killed") == runs.weights("whole")


def wait_for_step(run: Path, step: int, process: "subprocess.Popen[bytes]") -> None:
    """Wait until a checkpoint of this step or a later one is there, or the process has ended."""
    deadline = time.monotonic() + 120
    while not any(int(place.name[5:]) >= step for place in (run / "checkpoints").glob("step_*")):
        if process.poll() is not None or time.monotonic() > deadline:
            return
        time.sleep(0.001)


@pytest.fixture(scope="module")
def compiled(runs: Runs) -> Runs:
    runs.do([{"train": runs.arguments("config", name, *settings)} for name, settings in COMPILED.items()], "auto")
    return runs


@pytest.mark.parametrize("mode", COMPILED)
def test_what_is_compiled_trains_the_same(compiled: Runs, mode: str) -> None:
    assert int((compiled.path(mode) / "compiled_graphs").read_text()) > 0
    assert compiled.losses(mode) == pytest.approx(compiled.losses("fp32"), rel=1e-3)
