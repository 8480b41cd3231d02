"""Where tests are: `tests/unit` mirrors the source, and no file of tests is too long to read."""

from pathlib import Path

from tests.conftest import ROOT

UNIT = ROOT / "tests" / "unit"
FILES = sorted(path for path in UNIT.rglob("test_*.py") if path.parent != UNIT)
OF_SEVERAL_MODULES = {
    "dist_train/test_unusual_networks.py",
}
"""Files of tests that are of more than the module or package they are named after."""


def is_named_after_source(test: Path) -> bool:
    """Whether a module, package or page has the test's name, or the beginning of it, as in `loader_faults`."""
    folder, name = ROOT / test.parent.relative_to(UNIT), test.stem.removeprefix("test_")
    sources = [path for path in folder.glob("*") if path.suffix in (".py", ".md") or path.is_dir()]
    names = {path.stem.lower() for path in (*sources, folder)}
    return any(name == each or name.startswith(f"{each}_") for each in names)


def test_a_unit_test_is_named_after_what_it_tests() -> None:
    others = {str(test.relative_to(UNIT)) for test in FILES if not is_named_after_source(test)}
    assert others == OF_SEVERAL_MODULES


def test_no_file_of_tests_has_more_than_500_lines() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "tests").rglob("*.py")}
    assert {path: length for path, length in lengths.items() if length > 500} == {}
