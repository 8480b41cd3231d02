"""Which tests pytest-xdist gives to one worker: those of a file that share runs, and all others one by one."""

from xdist.scheduler import LoadScopeScheduling

# Each has a fixture that trains for many of its tests; two workers would train twice.
KEPT_TOGETHER = (
    *(
        f"tests/ranks/test_{name}.py"
        for name in (
            *("bitwise", "callbacks", "exact", "failing_calls", "kills", "modes", "optimizers", "plateau", "runs"),
            *("startup", "stops"),
        )
    ),
    "tests/torture/test_torture.py",
    "tests/unit/dist_train/tasks/test_task.py",
)


class Scheduler(LoadScopeScheduling):  # type: ignore[misc]
    """Gives out the files of KEPT_TOGETHER first, as they have the most tests, then tests as they were collected."""

    def _split_scope(self, nodeid: str) -> str:
        """Tests for which this is the same go to one worker."""
        path = nodeid.partition("::")[0]
        if path.startswith("tests/package/"):
            return "tests/package"  # they share an installation
        return path if path in KEPT_TOGETHER else nodeid
