"""The shell scripts are clean."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def test_shellcheck_finds_nothing() -> None:
    folders = [ROOT / name for name in (".ci", "slurm", "tests/slurm")]
    scripts = [path for folder in folders for path in sorted(folder.iterdir()) if is_script(path)]
    assert {".ci", "slurm", "tests/slurm"} == {str(path.parent.relative_to(ROOT)) for path in scripts}
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, *scripts], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def is_script(path: Path) -> bool:
    return path.suffix in {".sh", ".sbatch"} or (path.is_file() and path.read_bytes().startswith(b"#!"))
