"""The environment that the peers are installed into, so that the project's own stays as it is."""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from benchmarks.processes import ROOT
from dist_train.errors import UserError

DIRECTORY = ROOT / ".venv-bench"
PYTHON = DIRECTORY / "bin" / "python"
LOCK = ROOT / "benchmarks" / "compare" / "peers.lock"


def peers_python() -> Path:
    """The Python that has the peers of `peers.lock`, made where it is not there yet.

    It sees the packages of the Python that runs this, behind its own: torch is the same, and not installed twice.

    Raises:
        UserError: they can't be installed; pip itself has said why.
    """
    installed = DIRECTORY / "installed.lock"
    if not installed.exists() or installed.read_text(encoding="utf-8") != _wanted():
        print(f"installing the peers into {DIRECTORY.name}", file=sys.stderr, flush=True)
        try:
            _install()
        except (subprocess.CalledProcessError, OSError) as error:
            raise UserError(
                f"{DIRECTORY.name}: the peers of {LOCK.relative_to(ROOT)} cannot be installed ({error}); is there a "
                "network or an index that pip can ask, and room on the disk?"
            ) from error
        installed.write_text(_wanted(), encoding="utf-8")
    return PYTHON


def _install() -> None:
    """Raises CalledProcessError and OSError."""
    venv.create(DIRECTORY, clear=True, with_pip=True)
    _site_packages().joinpath("project.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--no-deps", "--requirement", str(LOCK)]
    subprocess.run(pip, check=True)


def _wanted() -> str:
    """What has to be installed, and for which Python."""
    return f"# {sys.prefix} {sys.version}\n{LOCK.read_text(encoding='utf-8')}"


def _site_packages() -> Path:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return DIRECTORY / "lib" / version / "site-packages"
