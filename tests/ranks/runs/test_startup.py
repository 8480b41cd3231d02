"""A start imports only what its run uses: each of these packages takes as long as all the rest of a start."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Python, Ranks

# torch's compiler with its dependencies, and what only some data sets and networks need.
NEVER = {
    *("torch._dynamo", "torch._inductor", "sympy", "triton", "torchvision", "sklearn", "scipy", "pandas", "PIL"),
    *("tensorboard", "google.protobuf", "torch.distributed.tensor", "torch.distributed.checkpoint"),
}
CONFIG = """
data: {name: digits, limit_train: 64, limit_test: 20, global_batch: 16}
model: {name: mnist_cnn}
optim: {name: sgd}
train: {max_steps: 2, max_grad_norm: 1.0, ema_decay: 0.9}
eval: {every_epochs: 0}
log: {every_steps: 1}
distributed: {backend: gloo, threads: 1}
"""
Imported = Callable[..., dict[str, set[str]]]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, interpreter: Python) -> Path:
    """Settings of a run whose data are decoded and cached already."""
    directory = tmp_path_factory.mktemp("startup")
    (directory / "a.yaml").write_text(f"{CONFIG}run: {{dir: {directory}/decoded}}\n")
    done = interpreter("-m", "dist_train", str(directory / "a.yaml"), "train.max_steps=1")
    assert done.returncode == 0, done.stderr
    return directory / "a.yaml"


@pytest.fixture
def imported(config: Path, tmp_path: Path, interpreter: Python, torchrun: Ranks) -> Imported:
    """Train; return the modules of each rank before training (`begun.R`) and after a step (`stepped.R`)."""

    def run(launcher: str, *overrides: str) -> dict[str, set[str]]:
        command = ("tests/programs/imports.py", str(config), f"run.dir={tmp_path / 'run'}", *overrides)
        env = {"DIST_TRAIN_TEST_IMPORTS": str(tmp_path)}
        done: subprocess.CompletedProcess[str]
        if launcher == "torchrun":
            done = torchrun(2, *command, env=env)
        else:
            done = interpreter(*command, *(("--nproc", "2") if launcher == "agent" else ()), env=env)
        assert done.returncode == 0, done.stderr
        return {path.stem: set(json.loads(path.read_text())) for path in tmp_path.glob("*.json")}

    return run


@pytest.mark.slow
class TestImports:
    @pytest.mark.parametrize(
        ("launcher", "ranks"), [("process", 1), pytest.param("torchrun", 2, marks=pytest.mark.long), ("agent", 2)]
    )
    def test_a_run_imports_only_what_it_uses(self, imported: Imported, launcher: str, ranks: int) -> None:
        found = imported(launcher)
        assert len(found) == 2 * ranks
        for rank in range(ranks):
            assert "torch" in found[f"stepped.{rank}"]
            assert found[f"stepped.{rank}"] & NEVER == set()

    def test_a_resumed_run_imports_no_more(self, imported: Imported, tmp_path: Path) -> None:
        imported("process", "train.max_steps=1")
        for path in tmp_path.glob("*.json"):
            path.unlink()
        assert imported("process")["stepped.0"] & NEVER == set()
        assert json.loads((tmp_path / "run" / "status.json").read_text())["started_step"] == 1

    def test_ranks_of_the_agent_find_everything_imported(self, imported: Imported) -> None:
        found = imported("agent", "model.name=resnet18")
        for rank in range(2):
            late = found[f"stepped.{rank}"] - found[f"begun.{rank}"]
            assert {name for name in late if not name.startswith("torch.")} == set()

    def test_the_agent_imports_the_compiler_for_a_run_that_compiles(self, config: Path, interpreter: Python) -> None:
        program = (
            "import sys\n"
            "from dist_train.elastic.agent import _import_modules\n"
            "from dist_train.settings.loader import load_config\n"
            "_import_modules(load_config(sys.argv[1], sys.argv[2:]))\n"
            "assert {'torch._dynamo', 'torchvision'} <= set(sys.modules)\n"
        )
        done = interpreter("-c", program, str(config), "train.compile=model", "model.name=torchvision/squeezenet1_1")
        assert (done.returncode, done.stderr) == (0, "")


def test_no_optimizer_and_no_backward_pass_asks_for_the_compiler(interpreter: Python) -> None:
    program = (
        "import sys, torch\n"
        "from tests.unit.dist_train.optim.in_torch import OPTIMIZERS\n"
        "from dist_train.execution.lazy_dynamo import backward, defer_dynamo_import\n"
        "from dist_train.optim.build import build_optimizer\n"
        "from dist_train.optim.combined import unwrapped_step\n"
        "defer_dynamo_import()\n"
        "for section in OPTIMIZERS:\n"
        "    network = torch.nn.Linear(2, 1)\n"
        "    optimizer = build_optimizer(section(name=section.__name__.lower()), network)\n"
        "    for _ in range(2):\n"
        "        optimizer.zero_grad()\n"
        "        backward(network(torch.ones(1, 2)).sum(), torch.tensor(0.5))\n"
        "        assert network.bias.grad.item() == 0.5\n"
        "        unwrapped_step(optimizer)()\n"
        "    optimizer.load_state_dict(optimizer.state_dict())\n"
        "    assert not {'torch._dynamo', 'sympy'} & set(sys.modules), section\n"
    )
    done = interpreter("-c", program)
    assert (done.returncode, done.stderr) == (0, "")


def test_torch_is_as_it_was_for_whoever_asks_for_its_compiler(interpreter: Python) -> None:
    program = (
        "import sys, torch\nfrom dist_train.execution.lazy_dynamo import defer_dynamo_import\ndefer_dynamo_import()\n"
        "assert 'torch._dynamo' not in sys.modules\n"
        "assert torch._dynamo.utils.get_optimize_ddp_mode() == 'ddp_optimizer'\n"
        "assert 'torch._dynamo' not in sys.modules\n"
        "assert torch._dynamo.config.suppress_errors is False\n"
        "assert torch._dynamo is sys.modules['torch._dynamo']\n"
        "assert torch._dynamo.utils.get_optimize_ddp_mode() == 'ddp_optimizer'\n"
        "network = torch.nn.Linear(2, 2)\n"
        "assert torch.compile(network, backend='eager')(torch.ones(1, 2)).shape == (1, 2)\n"
    )
    done = interpreter(
        "-W", "ignore::RuntimeWarning:torch._dynamo.guards", "-c", program
    )  # torch warns on Python 3.13.0
    assert (done.returncode, done.stderr) == (0, "")
