"""Which tests pytest-xdist gives to one worker: those of a file that share a fixture, and all others one by one."""

from functools import cache
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling


@cache
def shares_fixture(test_file: Path) -> bool:
    """Whether a file has a fixture for all its tests, such as runs; two workers would make it twice."""
    return 'scope="module"' in test_file.read_text(encoding="utf-8")


class Scheduler(LoadScopeScheduling):  # type: ignore[misc]
    """Gives out the files that share a fixture first, as they have the most tests, then the other tests in order."""

    def _split_scope(self, nodeid: str) -> str:
        """Tests for which this is the same go to one worker."""
        path = nodeid.partition("::")[0]
        if path.startswith("tests/package/"):
            return "tests/package"  # they share an installation
        return path if shares_fixture(self.config.rootpath / path) else nodeid
