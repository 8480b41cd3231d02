"""Bad input ends with exit code 2 and a message: no traceback, no run directory, and no rank that hangs.

Faults of settings files are tested in tests/unit/dist_train/settings, those of data in tests/unit/dist_train/data; here
are whole commands.
"""

import json
from pathlib import Path

import pytest
import torch

from tests.conftest import Python, Ranks

pytestmark = pytest.mark.slow


CONFIG = """
data: {name: synthetic, limit_train: 32, limit_test: 16, global_batch: 16}
model: {name: mnist_cnn}
train: {max_steps: 2}
log: {tensorboard: false}
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "a file").write_text("")
    (tmp_path / "mnist" / "MNIST" / "raw").mkdir(parents=True)
    (tmp_path / "empty" / "train").mkdir(parents=True)
    (tmp_path / "empty" / "test").mkdir()
    return tmp_path


CASES = [
    (["train.epoch=2"], "train.epoch is not a setting; here it is train.epochs"),
    (["log.every=5"], "log.every is 5; this setting is now called log.every_steps"),
    (["train.compile=step"], "train.compile is 'step'; compiling the whole step"),
    (["data.global_batch=0"], "command line: data.global_batch"),
    (["data.name=mnist", "data.download=false", "data.root={}/mnist"], "train-images-idx3-ubyte"),
    (["data.name=image_folder", "data.root={}/nowhere"], "{}/nowhere"),
    (["data.name=image_folder", "data.root={}/empty"], "{}/empty/train"),
    (["data.normalize.mean=[0.5, 0.5]", "data.normalize.std=[0.5, 0.5]"], "data.normalize"),
    (["model.num_classes=3"], "model.num_classes is 3"),
    (["model.name=lenet", "data.shape=[1, 8, 8]"], "model.name lenet does not take images of 1x8x8"),
    (["model.name=torchvision/vgg11"], "model.name torchvision/vgg11 does not take images of 1x28x28"),
    (["run.dir={}/a file/run"], "run.dir {}/a file/run: can't be written"),
    (["run.dir=/proc/run"], "run.dir /proc/run: can't be written"),
    (["run.resume={}/nowhere"], "{}/nowhere: no checkpoint there"),
    (["train.precision=tf32"], "train.precision is tf32, which GPUs of compute capability 8.0 and newer have"),
    (["data.validation=0.999"], "data.validation"),
    (["data.sampling=weighted"], "data.sampling=weighted: the data set has no attribute `weights`"),
    (["model.name=torchvision/resnet18", "data.limit_train=17"], "data.global_batch: some rank gets a single sample"),
    (["distributed.threads=100000"], "distributed.threads is 100000"),
]


@pytest.mark.parametrize(("overrides", "message"), CASES, ids=[" ".join(overrides) for overrides, _ in CASES])
def test_a_command_ends_with_2_and_a_message(
    directory: Path, python: Python, overrides: list[str], message: str
) -> None:
    overrides = [f"run.dir={directory / 'run'}", *(override.format(directory) for override in overrides)]
    if any(override.startswith("run.dir") for override in overrides[1:]):
        del overrides[0]
    done = python("-m", "dist_train", str(directory / "config.yaml"), *overrides)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message.format(directory) in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert len(done.stderr.splitlines()) <= 6
    assert not (directory / "run").exists()


def test_old_settings_of_a_file_end_with_2_and_their_new_names(directory: Path, python: Python) -> None:
    config = directory / "old.yaml"
    config.write_text(CONFIG.replace("log: {", "log: {every: 3, ") + "checkpoint:\n  every: 7\n")
    done = python("-m", "dist_train", str(config), f"run.dir={directory / 'run'}", "--print-config")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"{config}:5: log.every is 3; this setting is now called log.every_steps",
        f"{config}:7: checkpoint.every is 7; this setting is now called checkpoint.every_steps",
    ]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "0"}, "RANK set, but WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT not"),
        ({"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}, "MASTER_ADDR, MASTER_PORT set, but RANK"),
    ],
)
def test_half_set_variables_are_refused_by_name(
    directory: Path, python: Python, environment: dict[str, str], message: str
) -> None:
    run = directory / "run"
    done = python("-m", "dist_train", str(directory / "config.yaml"), f"run.dir={run}", env=environment)
    assert done.returncode == 2
    assert message in done.stderr
    assert not run.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_nccl_without_a_gpu_is_refused(directory: Path, python: Python) -> None:
    run = directory / "run"
    done = python("-m", "dist_train", str(directory / "config.yaml"), f"run.dir={run}", "distributed.backend=nccl")
    assert done.returncode == 2
    assert "distributed.backend is nccl, but torch finds no GPU" in done.stderr


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.epoch=2"], "train.epoch is not a setting"),
        (["data.name=mnist", "data.download=false", "data.root={}/mnist"], "data.root"),
        (["run.dir={}/a file/run"], "can't be written"),
        (["train.precision=tf32"], "train.precision is tf32"),
    ],
)
def test_two_ranks_refuse_together_and_one_says_why(
    directory: Path, on_ranks: Ranks, overrides: list[str], message: str
) -> None:
    formatted = [override.format(directory) for override in overrides]
    if not formatted[0].startswith("run.dir"):
        formatted.append(f"run.dir={directory / 'run'}")
    done = on_ranks(2, "-m", "dist_train", str(directory / "config.yaml"), *formatted, timeout=60)
    assert done.returncode == 1  # torchrun's own
    assert done.stderr.count(message) == 1
    assert 'dist_train/__main__.py", line' not in done.stderr
    assert not (directory / "run").exists()


def test_a_checkpoint_that_rank_0_refuses_ends_both_ranks(directory: Path, python: Python, on_ranks: Ranks) -> None:
    command = ("-m", "dist_train", str(directory / "config.yaml"), f"run.dir={directory / 'run'}")
    assert python(*command).returncode == 0
    manifest = directory / "run" / "checkpoints" / "latest" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["files"]["model.pt"]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(content))
    done = on_ranks(2, *command, "train.max_steps=4", timeout=60)
    assert done.returncode == 1
    assert done.stderr.count("is damaged") == 1
