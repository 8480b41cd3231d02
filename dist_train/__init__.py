"""Distributed PyTorch training from one YAML file, with the same numbers on any number of ranks.

from dist_train import evaluate, load_config, load_model, train

result = train(load_config("digits", ["train.epochs=5"]))
print(result.evaluations["test"]["accuracy"], evaluate(result.run_dir, checkpoint="best"))
logits = load_model(result.run_dir)(images)
"""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

TYPE_CHECKING = False  # typing may be a file of the user here, until the working directory is forgotten
if TYPE_CHECKING:
    from dist_train.interface.model import TrainedModel, load_model
    from dist_train.interface.training import TrainingResult, evaluate, train
    from dist_train.settings.loader import load_config

__version__ = "0.1.0"
__all__ = ["TrainedModel", "TrainingResult", "evaluate", "load_config", "load_model", "train"]

_MODULES = {
    "TrainedModel": "interface.model",
    "TrainingResult": "interface.training",
    "evaluate": "interface.training",
    "load_config": "settings.loader",
    "load_model": "interface.model",
    "train": "interface.training",
}
"""Where each name of `__all__` comes from; imported when it is first used, since most of it needs torch."""


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    found: object = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps `train` and `evaluate` the functions: importing the module of this name would put that in its place."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _MODULES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def _forget_working_directory() -> None:
    """Let no file of the user, such as a random.py beside the settings, replace a module.

    `python -m` puts the working directory first. Only a checkout is needed of it, which is looked up last from now on.
    """
    if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:  # while Python looks for what `-m` names
        del sys.path[0]
        checkout = str(Path(__file__).resolve().parent.parent)
        sys.path += [] if checkout in sys.path else [checkout]


_forget_working_directory()
