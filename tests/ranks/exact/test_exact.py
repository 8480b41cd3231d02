"""What must be exact, at 1, 2, 3 and 4 real ranks: loss curves, resumed runs, counts of an evaluation."""

import json
from pathlib import Path
from typing import Any

import pytest

from dist_train.monitoring import ledger
from dist_train.monitoring.metrics import read_lines
from tests.conftest import Python, Ranks, weights_hash
from tests.ranks.conftest import DoJobs

pytestmark = pytest.mark.slow

WORLDS = (1, 2, 3, 4)

# 100 samples in batches of 30: the last batch of an epoch has 10, and of 3 ranks' shares some are unequal.
EVERYTHING = """
data: {name: synthetic, num_train: 100, num_test: 70, global_batch: 30, validation: 0.0,
       augment: {crop_padding: 2, flip: true, cutout: 6}}
model: {name: mnist_example, dropout: 0.3}
optim: {name: sgd, lr: 0.02, momentum: 0.9, schedule: cosine, warmup_epochs: 0.5}
train: {epochs: 3, micro_batch: 8, ema_decay: 0.8, max_grad_norm: 1.0}
loss: {name: cross_entropy, args: {label_smoothing: 0.1}}
checkpoint: {every_steps: 1, keep_last: 100}
log: {every_steps: 3, tensorboard: false}
"""
# 22 samples in batches of 10: the last batch has 2, so at 3 and 4 ranks some rank has none.
BATCHNORM = """
data: {name: synthetic, num_train: 22, num_test: 20, global_batch: 10, validation: 0.1}
model: {name: mnist_cnn}
optim: {name: adam, lr: 0.001}
train: {epochs: 2}
checkpoint: {every_steps: 1, keep_last: 100}
log: {every_steps: 1, tensorboard: false}
"""
# Gradients that go another way than through shared memory.
GLOO = (
    EVERYTHING
    + """
distributed: {shared_memory: "off"}
"""
)
COMPRESSED = (
    EVERYTHING
    + """
distributed: {shared_memory: "off", compression: bf16}
"""
)
CURVE = """
data: {name: synthetic, num_train: 500, num_test: 260, global_batch: 64, augment: {crop_padding: 2}}
model: {name: mnist_example}
optim: {name: sgd, lr: 0.01, momentum: 0.9}
train: {max_steps: 50}
eval: {every_epochs: 3}
checkpoint: {every_steps: 13, keep_last: 100}
log: {every_steps: 1, tensorboard: false}
"""
STEPS64 = 20  # in float64, where they differ by so little that more would show no more

CONFIGS = {
    "everything": EVERYTHING, "batchnorm": BATCHNORM, "gloo": GLOO, "compressed": COMPRESSED, "curve": CURVE,
}  # fmt: skip
CUTS = {"everything": (4, 7), "batchnorm": (1,), "gloo": (7,), "compressed": (7,)}
"""The steps after which a run resumes: 4 is the end of an epoch, 7 inside one."""
CUT_WORLDS = {"everything": (1, 3, 4), "batchnorm": (1, 4), "gloo": (3,), "compressed": (3,)}
"""Gloo has no other way at 4 ranks than at 3."""


class Runs:
    """The runs of every world size, and their results."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name, text in CONFIGS.items():
            (directory / f"{name}.yaml").write_text(text)

    def path(self, name: str, ranks: int) -> Path:
        return self.directory / f"{name}-{ranks}"

    def train(self, config: str, name: str, ranks: int, *overrides: str) -> list[str]:
        cache = f"data.cache={self.directory / 'cache'}"
        return [
            str(self.directory / f"{config}.yaml"), f"run.name={name}", f"run.dir={self.path(name, ranks)}", cache,
            *overrides,
        ]  # fmt: skip

    def jobs(self, ranks: int) -> list[dict[str, Any]]:
        jobs: list[dict[str, Any]] = [
            {"train": self.train("curve", "curve", ranks)},
            {"train": self.train("curve", "curve64", ranks, f"train.max_steps={STEPS64}"), "dtype": "float64"},
        ]
        jobs.append({"train": self.train("batchnorm", "batchnorm64", ranks), "dtype": "float64", "normalised": True})
        for config, steps in CUTS.items():
            if ranks not in CUT_WORLDS[config]:
                continue
            normalised = config == "batchnorm"
            jobs.append({"train": self.train(config, config, ranks), "normalised": normalised})
            for step in steps:
                name = f"{config}-from-{step}"
                jobs.append({"cut": str(self.path(config, ranks)), "to": str(self.path(name, ranks)), "step": step})
                jobs.append({"train": self.train(config, name, ranks), "normalised": normalised})
        if ranks > 1:
            # A checkpoint of one rank, inside an epoch (step 26 of 8 an epoch), gone on from by several.
            jobs.append({"cut": str(self.path("curve", 1)), "to": str(self.path("moved", ranks)), "step": 26})
            jobs.append({"train": self.train("curve", "moved", ranks)})
            jobs.append({"cut": str(self.path("batchnorm64", 1)), "to": str(self.path("moved64", ranks)), "step": 1})
            moved = self.train("batchnorm", "moved64", ranks)
            jobs.append({"train": moved, "dtype": "float64", "normalised": True})
        return jobs

    def weights(self, name: str, ranks: int) -> str:
        return weights_hash(self.path(name, ranks))

    def shares(self, name: str, ranks: int) -> bool:
        """Whether the ranks had shared memory."""
        return bool(json.loads((self.path(name, ranks) / "env.json").read_text())["choices"]["shared_memory"])

    def first_loss(self, name: str, ranks: int) -> float:
        found = ledger.hex_to_float(ledger.read(self.path(name, ranks) / "ledger.jsonl")[0]["loss"])
        assert found is not None
        return found

    def losses(self, name: str, ranks: int) -> list[float]:
        lines = read_lines(self.path(name, ranks) / "metrics.jsonl")
        return [line["loss"] for line in lines if line["kind"] == "train"]

    def evaluations(self, name: str, ranks: int) -> list[float]:
        lines = read_lines(self.path(name, ranks) / "metrics.jsonl")
        return [line["loss"] for line in lines if line["kind"] == "eval"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, do_jobs: DoJobs) -> Runs:
    runs = Runs(tmp_path_factory.mktemp("exact"))
    for ranks in WORLDS:
        do_jobs(ranks, runs.jobs(ranks))
    return runs


@pytest.mark.parametrize("ranks", WORLDS[1:])
@pytest.mark.parametrize(("name", "tolerance"), [("curve", 1e-4), ("curve64", 1e-9), ("moved", 1e-4)])
def test_the_loss_curve_is_the_same_at_any_number_of_ranks(runs: Runs, name: str, tolerance: float, ranks: int) -> None:
    alone = runs.losses("curve64" if name == "curve64" else "curve", 1)
    assert len(alone) == (STEPS64 if name == "curve64" else 50)
    assert max(alone) > 1.1 * min(alone), "the curve has to move, or any two would agree"
    assert runs.losses(name, ranks) == pytest.approx(alone, rel=tolerance, abs=0)


@pytest.mark.parametrize("ranks", WORLDS[1:])
@pytest.mark.parametrize("name", ["batchnorm64", "moved64"])
def test_batch_normalisation_is_the_same_at_any_number_of_ranks(runs: Runs, name: str, ranks: int) -> None:
    assert runs.losses(name, ranks) == pytest.approx(runs.losses("batchnorm64", 1), rel=1e-9, abs=0)
    assert runs.evaluations(name, ranks) == pytest.approx(runs.evaluations("batchnorm64", 1), rel=1e-9, abs=0)


def test_four_ranks_of_a_real_torchrun_train_the_same_bits(runs: Runs, torchrun: Ranks) -> None:
    """The fork server and torchrun start the same training."""
    done = torchrun(4, "-m", "dist_train", *runs.train("everything", "torchrun", 4), "distributed.backend=gloo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert runs.weights("torchrun", 4) == runs.weights("everything", 4)


@pytest.mark.parametrize(
    ("config", "step", "ranks"),
    [(config, step, ranks) for config, steps in CUTS.items() for step in steps for ranks in CUT_WORLDS[config]],
)
def test_a_run_resumed_at_any_checkpoint_ends_with_the_same_bits(
    runs: Runs, config: str, step: int, ranks: int
) -> None:
    resumed = f"{config}-from-{step}"
    assert runs.weights(resumed, ranks) == runs.weights(config, ranks)
    assert _timeless(runs, resumed, ranks) == _timeless(runs, config, ranks)


@pytest.mark.parametrize("ranks", CUT_WORLDS["gloo"])
def test_gradients_may_go_another_way(runs: Runs, ranks: int) -> None:
    """Two ranks' gradients have the same bits either way, but lie in other buckets, by which norm and update round."""
    assert runs.losses("gloo", ranks) == pytest.approx(runs.losses("everything", ranks), rel=1e-4)
    assert runs.losses("compressed", ranks) == pytest.approx(runs.losses("everything", ranks), rel=2e-2)
    assert runs.weights("compressed", ranks) != runs.weights("gloo", ranks)
    first = {
        name: runs.first_loss(name, ranks) for name in ("gloo", "compressed")
    }  # it is not a gradient, and not rounded
    assert first["compressed"] == pytest.approx(first["gloo"], rel=1e-6)
    assert [runs.shares(name, ranks) for name in ("everything", "gloo", "compressed")] == [True, False, False]


def test_the_runs_are_not_all_alike(runs: Runs) -> None:
    """The comparisons above would also hold of runs that never change a weight."""
    first = json.loads((runs.path("everything", 1) / "checkpoints/step_00000001/manifest.json").read_text())
    assert first["weights_sha256"] != runs.weights("everything", 1)
    assert runs.weights("everything", 1) != runs.weights("everything", 3)


def test_an_evaluation_counts_the_same_integers_at_any_number_of_ranks(
    runs: Runs, on_ranks: Ranks, python: Python
) -> None:
    results = []
    for ranks in WORLDS:
        arguments = ("-m", "dist_train.evaluate", str(runs.path("curve", 1)), "--json")
        done = python(*arguments) if ranks == 1 else on_ranks(ranks, *arguments)
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout.splitlines()[-1]))
    assert results[0]["count"] == 260
    for result in results[1:]:
        assert [result[key] for key in ("correct", "count")] == [results[0][key] for key in ("correct", "count")]
        assert {key: row["correct"] for key, row in result["per_class"].items()} == {
            key: row["correct"] for key, row in results[0]["per_class"].items()
        }


def _timeless(runs: Runs, name: str, ranks: int) -> list[dict[str, Any]]:
    """The lines of metrics without what is a matter of time."""
    lines = read_lines(runs.path(name, ranks) / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key not in ("time", "samples_per_second")} for line in lines]
