"""Every precision and way of compiling trains, resumes with the same bits, and differs from plain fp32 no more than it
should."""

import json
import shutil
from pathlib import Path

import pytest

from dist_train.errors import NonFiniteError
from dist_train.monitoring import ledger
from dist_train.monitoring.metrics import read_lines
from dist_train.training.fault_injection import NAN_STEP
from tests.conftest import Python, Torchrun

pytestmark = pytest.mark.slow

CONFIG = """
data: {name: synthetic, num_train: 72, num_test: 40, global_batch: 24}
model: {name: mnist_cnn}
optim: {name: adam, lr: 0.002, schedule: onecycle}
train: {max_steps: 6}
checkpoint: {every_steps: 2, keep_last: 9}
log: {every_steps: 1, tensorboard: false}
"""
SGD = ["optim.name=sgd", "optim.momentum=0.9", "optim.lr=0.05"]
# What a step does beside the update; and batches of two sizes.
ALL = ["train.ema_decay=0.9", "train.max_grad_norm=0.5", "optim.weight_decay=0.01", "data.global_batch=20"]
MODES = {
    "fp32": [],
    "bf16": ["train.precision=bf16"],
    "fp16": ["train.precision=fp16", "train.max_grad_norm=5.0"],
    "model": ["train.compile=model"],
    "step": ["train.compile=step"],
    "sgd": SGD,
    "step in pieces": ["train.compile=step", "train.micro_batch=12", *SGD],
    "all": ALL,
    "step with all": ["train.compile=step", *ALL],
    "contiguous": ["train.channels_last=off"],
    "deterministic": ["run.deterministic=true"],
}


def jobs(directory: Path, modes: list[str]) -> Path:
    """Train in each mode, and again from the checkpoint of step 4."""
    (directory / "config.yaml").write_text(CONFIG)
    todo: list[dict[str, object]] = []
    for mode in modes:
        command = [str(directory / "config.yaml"), f"data.cache={directory / 'cache'}", *MODES[mode]]
        resumed = directory / f"{mode}-resumed"
        todo.append({"train": [*command, f"run.dir={directory / mode}"]})
        todo.append({"cut": str(directory / mode), "to": str(resumed), "step": 4})
        todo.append({"train": [*command, f"run.dir={resumed}"]})
    path = directory / "jobs.json"
    path.write_text(json.dumps(todo))
    return path


def weights(run: Path) -> str:
    return str(json.loads((run / "checkpoints" / "latest" / "manifest.json").read_text())["weights_sha256"])


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_lines(run / "metrics.jsonl") if line["kind"] == "train"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, python: Python) -> Path:
    directory = tmp_path_factory.mktemp("modes")
    done = python("tests/programs/runs.py", str(jobs(directory, list(MODES))), timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_resumes_with_the_same_bits(alone: Path, mode: str) -> None:
    assert weights(alone / f"{mode}-resumed") == weights(alone / mode)
    assert losses(alone / f"{mode}-resumed") == losses(alone / mode)


@pytest.mark.parametrize(
    ("mode", "tolerance"),
    [("bf16", 2e-2), ("fp16", 5e-3), ("model", 1e-4), ("step", 1e-4), ("contiguous", 1e-4), ("deterministic", 1e-6)],
)
def test_each_mode_stays_close_to_fp32(alone: Path, mode: str, tolerance: float) -> None:
    assert losses(alone / mode) == pytest.approx(losses(alone / "fp32"), rel=tolerance)
    if mode in ("bf16", "fp16", "contiguous"):
        assert weights(alone / mode) != weights(alone / "fp32"), "the setting changed nothing at all"


@pytest.mark.parametrize(("mode", "like"), [("step in pieces", "sgd"), ("step with all", "all")])
def test_a_compiled_step_does_what_others_do(alone: Path, mode: str, like: str) -> None:
    assert losses(alone / mode) == pytest.approx(losses(alone / like), rel=1e-4)


@pytest.mark.parametrize(
    ("mode", "graphs"),
    # One for each size of batch; in pieces, one of the loss with the network and one of the update.
    [("fp32", 0), ("fp16", 0), ("model", 1), ("step", 1), ("step in pieces", 2), ("step with all", 2)],
)
def test_no_more_is_compiled_than_was_asked_for(alone: Path, mode: str, graphs: int) -> None:
    assert int((alone / mode / "compiled_graphs").read_text()) == graphs


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on CPU")
def test_two_ranks_compile(tmp_path: Path, torchrun: Torchrun) -> None:
    done = torchrun(2, "tests/programs/runs.py", str(jobs(tmp_path, ["fp32", "step"])), timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert weights(tmp_path / "step-resumed") == weights(tmp_path / "step")
    assert losses(tmp_path / "step") == pytest.approx(losses(tmp_path / "fp32"), rel=1e-4)


# Small enough for several steps in one call; batches of two sizes.
SMALL = [
    *(
        "train.compile=step",
        "model.name=lenet",
        "data.global_batch=5",
        "train.max_steps=40",
        "checkpoint.every_steps=13",
    ),
    *("train.ema_decay=0.9", "train.max_grad_norm=0.5"),
    *SGD,
]
TOGETHER = {
    "together": ["log.every_steps=100"],
    "told": ["log.every_steps=1"],
    "eager": ["log.every_steps=1", "train.compile=off"],
    "dropout": ["log.every_steps=100", "model.dropout=0.5"],
}


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, python: Python) -> Path:
    directory = tmp_path_factory.mktemp("together")
    (directory / "config.yaml").write_text(CONFIG)
    settings = [str(directory / "config.yaml"), f"data.cache={directory / 'cache'}"]
    resumed = {"resumed": TOGETHER["together"], "resumed and told": TOGETHER["told"]}
    trained: dict[str, list[str]] = {**TOGETHER, **resumed}
    todo: list[dict[str, object]] = []
    for name, more in trained.items():
        run = directory / name
        if name in resumed:
            todo.append({"cut": str(directory / "together"), "to": str(run), "step": 26})
        given = {setting.partition("=")[0]: setting for setting in (*SMALL, *more)}
        todo.append({"train": [*settings, *given.values(), f"run.dir={run}"]})
    (directory / "jobs.json").write_text(json.dumps(todo))
    done = python("tests/programs/runs.py", str(directory / "jobs.json"), timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


@pytest.mark.parametrize("name", ["told", "resumed", "resumed and told"])
def test_steps_of_one_call_are_those_of_many(together: Path, name: str) -> None:
    choices = json.loads((together / "together" / "env.json").read_text())["choices"]
    assert choices["steps_together"] == 8
    graphs = [int((together / each / "compiled_graphs").read_text()) for each in ("told", "together")]
    assert graphs == [2, 3]  # one for each size of batch, and that of several steps
    assert weights(together / name) == weights(together / "together")


def test_the_step_that_fails_is_named(together: Path, python: Python) -> None:
    """It is known when the call has been made; the ledger ends right before it."""
    given = {
        setting.partition("=")[0]: setting for setting in (*SMALL, "log.every_steps=100", f"run.dir={together / 'nan'}")
    }
    command = ["-m", "dist_train", str(together / "config.yaml"), f"data.cache={together / 'cache'}", *given.values()]
    done = python(*command, env={NAN_STEP: "11"})
    assert done.returncode == NonFiniteError.exit_code
    assert "the loss of step 11 is nan" in done.stdout + done.stderr
    assert [line["step"] for line in ledger.read(together / "nan" / "ledger.jsonl")] == list(range(1, 11))
    assert json.loads((together / "nan" / "status.json").read_text())["step"] == 11


def test_a_step_with_random_numbers_is_a_call_of_its_own(together: Path) -> None:
    """In a graph of several, all would be drawn with the seed of the first."""
    assert (together / "dropout" / "compiled_graphs").read_text() == "2"


def test_steps_of_one_call_stay_close_to_eager_ones(together: Path) -> None:
    found = [
        [ledger.hex_to_float(line["loss"]) for line in ledger.read(together / name / "ledger.jsonl")]
        for name in ("together", "eager")
    ]
    assert len(found[0]) == 40
    assert found[0] == pytest.approx(found[1], rel=1e-3)
