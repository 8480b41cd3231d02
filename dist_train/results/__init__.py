"""Commands on data and on trained networks: predictions, pictures, curves, exports, descriptions.

predictions       iterates over a split of a run: inputs, targets and the network's output
predict/          predicts a split, picture files and tables
show              draws samples with the network's predictions
charts            draws the curves of runs
curves            reads the curves of runs
points            samples of numbers as points, with the network's predictions
grid              pictures side by side
figure            the style of all pictures
export            writes weights and networks for other programs
output_file       the file that a command writes, whole or not at all
describe_data     counts, shapes, balance, statistics and duplicates of data
describe_model    layers, shapes, weights and multiply-adds of a network
describe_tensors  shapes, types, mean and standard deviation of many tensors
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
