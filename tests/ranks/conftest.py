"""Several jobs in one world, as the tests of exact results need them."""

import json
from typing import Any, Protocol

import pytest

from tests.conftest import Python, Ranks


class DoJobs(Protocol):
    def __call__(self, ranks: int, jobs: list[dict[str, Any]], timeout: float = 300) -> None: ...


@pytest.fixture(scope="session")
def do_jobs(tmp_path_factory: pytest.TempPathFactory, python: Python, on_ranks: Ranks) -> DoJobs:
    """Do the jobs of tests/programs/runs.py on this number of ranks."""

    def run(ranks: int, jobs: list[dict[str, Any]], timeout: float = 300) -> None:
        file = tmp_path_factory.mktemp("jobs") / "jobs.json"
        file.write_text(json.dumps(jobs))
        command = ("tests/programs/runs.py", str(file))
        done = python(*command, timeout=timeout) if ranks == 1 else on_ranks(ranks, *command, timeout=timeout)
        assert done.returncode == 0, done.stdout + done.stderr

    return run
