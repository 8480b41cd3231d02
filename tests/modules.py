"""The modules whose names `dist_train` gives to functions of its interface, for tests that replace what is in them."""

from importlib import import_module
from typing import Any

train: Any = import_module("dist_train.train")
evaluate: Any = import_module("dist_train.evaluate")
