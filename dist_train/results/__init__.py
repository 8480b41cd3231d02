"""What was learned is shown and taken out: predictions, pictures, curves, exports, descriptions of data and models.

predictions     iterates over a split of a run: inputs, targets and the network's output
predict/        predicts a split, picture files and tables
show            draws samples, and what a network says of them
charts          draws the curves of runs
curves          reads them
points          samples of numbers, and what is predicted of them
grid            pictures side by side
figure          the style of all pictures
output_file     the file that is written, whole or not at all
export          writes weights and networks for other programs
"""

from importlib import import_module
from types import ModuleType

from dist_train.errors import ConfigError
from dist_train.system.escape import escape


def import_extra(module: str, extra: str) -> ModuleType:
    """Import a module that one of our extras installs.

    Args:
        module: its dotted name, e.g. `matplotlib.figure`.
        extra: of pyproject.toml, e.g. `plot`.

    Raises:
        ConfigError: it can't be imported; the text says what to install.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ConfigError(
            f"{package}: can't be imported ({escape(error, 200)}); pip install 'dist-train[{extra}]'"
        ) from error
