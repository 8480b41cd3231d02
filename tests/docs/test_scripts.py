"""The shell scripts are clean."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def test_shellcheck_finds_nothing() -> None:
    scripts = [path for place in ("slurm", "tests/slurm") for path in sorted((ROOT / place).glob("*.s[bh]*"))]
    assert scripts
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, *scripts], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
