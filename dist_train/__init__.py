"""Distributed PyTorch training from one YAML file, with the same numbers on any number of ranks."""

__version__ = "0.1.0"
