"""The names of the interface: found without torch, and functions in whichever order modules are imported."""

import pytest

from tests.conftest import ROOT, Python

FIRST = {
    "module train": "import dist_train.train",
    "a name of the module train": "from dist_train.train import train_step",
    "module evaluate": "import importlib; importlib.import_module('dist_train.evaluate')",
    "interface": "from dist_train import train, evaluate",
    "command": "import dist_train.__main__, dist_train.elastic.forking_agent",
}


def test_train_and_evaluate_are_functions_whatever_is_imported_first(interpreter: Python) -> None:
    """Each first in a fork of its own, of a process that has torch and nothing of ours; then the others."""
    check = (
        "import sys, dist_train\nfrom dist_train import evaluate, train\n"
        "assert train is dist_train.train is sys.modules['dist_train.interface.training'].train\n"
        "assert evaluate is dist_train.evaluate and callable(evaluate)\n"
        "from dist_train.train import train as loop\nfrom dist_train.evaluate import main\n"
        "assert loop is not train and callable(main)\n"
    )
    orders = ["\n".join([line, *(other for other in FIRST.values() if other != line)]) for line in FIRST.values()]
    program = (
        "import os, sys, pydantic, torch\nassert 'dist_train' not in sys.modules\n"
        f"for order in {orders!r}:\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        f"        exec(order + '\\n' + {check!r})\n"
        "        os._exit(0)\n"
        "    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, order\n"
    )
    done = interpreter("-W", "ignore:.*multi-threaded.*fork:DeprecationWarning", "-c", program)
    assert (done.returncode, done.stderr) == (0, "")


def test_importing_dist_train_and_load_config_import_no_torch(interpreter: Python) -> None:
    program = (
        "import sys, dist_train\nassert not {'torch', 'numpy', 'pydantic', 'yaml'} & set(sys.modules)\n"
        "print(dist_train.load_config('digits', ['train.epochs=3']).train.epochs)\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)\n"
        "assert set(dist_train.__all__) < set(dir(dist_train))"
    )
    done = interpreter("-c", program, env={"PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    import dist_train

    with pytest.raises(AttributeError, match="no attribute trian"):
        _ = dist_train.trian
