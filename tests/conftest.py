import os, subprocess, sys
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def _go(cmd, timeout):
    env = {k: v for k, v in os.environ.items()}
    env["PYTHONPATH"] = ROOT
    return subprocess.run(cmd, cwd=ROOT, env=env, timeout=timeout, text=True, capture_output=True)


@pytest.fixture(scope="session")
def torchrun():
    def run(ranks, *a, timeout=180):
        return _go(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", *a], timeout
        )

    return run


@pytest.fixture(scope="session")
def python():
    def run(*a, timeout=180):
        return _go([sys.executable, *a], timeout)

    return run
