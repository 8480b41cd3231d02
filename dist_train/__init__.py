"""Distributed PyTorch training from one YAML file, with the same numbers on any number of ranks."""

import sys
from pathlib import Path

__version__ = "0.1.0"


def _forget_working_directory() -> None:
    """Let no file of the user, such as a random.py beside the settings, replace a module.

    `python -m` puts the working directory first. Only a checkout is needed of it, which is looked up last from now on.
    """
    if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:  # while Python looks for what `-m` names
        del sys.path[0]
        checkout = str(Path(__file__).resolve().parent.parent)
        sys.path += [] if checkout in sys.path else [checkout]


_forget_working_directory()
