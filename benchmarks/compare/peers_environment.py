"""Install the peers into an environment of their own, `.venv-bench`."""

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
    """Python of the environment with the peers of `peers.lock`, which is created on the first call.

    It also sees the packages of the Python that runs this, so that torch is the same and not installed twice.

    Raises:
        UserError: they cannot be installed; pip has printed why.
    """
    installed = DIRECTORY / "installed.lock"
    if not installed.exists() or installed.read_text(encoding="utf-8") != _requirements():
        print(f"installing the peers into {DIRECTORY.name}", file=sys.stderr, flush=True)
        try:
            _install()
        except (subprocess.CalledProcessError, OSError) as error:
            raise UserError(
                f"{DIRECTORY.name}: the peers of {LOCK.relative_to(ROOT)} cannot be installed ({error}); check the "
                "network, the package index and the free disk space"
            ) from error
        installed.write_text(_requirements(), encoding="utf-8")
    return PYTHON


def _install() -> None:
    """Raises CalledProcessError and OSError."""
    venv.create(DIRECTORY, clear=True, with_pip=True)
    _site_packages().joinpath("project.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--no-deps", "--requirement", str(LOCK)]
    subprocess.run(pip, check=True)


def _requirements() -> str:
    """The packages to install, and the Python they are for."""
    return f"# {sys.prefix} {sys.version}\n{LOCK.read_text(encoding='utf-8')}"


def _site_packages() -> Path:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return DIRECTORY / "lib" / version / "site-packages"
