"""The optimizers of the settings as one builds them in plain torch."""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from dist_train.settings.schema.optim import AnyOptim, Optim, OwnOptim
from dist_train.settings.schema.section import section_classes

OPTIMIZERS = [each for each in section_classes(AnyOptim) if issubclass(each, Optim) and not issubclass(each, OwnOptim)]
IN_TORCH = [each for each in OPTIMIZERS if hasattr(torch.optim, each.__name__)]
"""Those that can be compared with torch's."""
# Arguments other than the defaults, so that none can be lost on the way.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True},
    "Adam": {"betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1, "amsgrad": True},
    "AdamW": {"betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1, "amsgrad": True},
    "Muon": {"weight_decay": 0.2, "momentum": 0.8, "nesterov": False, "ns_steps": 4, "eps": 1e-6},
    "Adagrad": {"lr": 0.5, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.2, "eps": 1e-3},
    "Adafactor": {"beta2_decay": -0.7, "d": 1.5, "weight_decay": 0.1},
    "RMSprop": {"lr": 0.005, "alpha": 0.8, "eps": 1e-3, "weight_decay": 0.1, "momentum": 0.9, "centered": True},
    "Adadelta": {"lr": 1.0, "rho": 0.8, "eps": 1e-3, "weight_decay": 0.1},
    "Adamax": {"betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1},
    "NAdam": {"betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1, "momentum_decay": 0.01},
    "RAdam": {"betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1, "decoupled_weight_decay": True},
    "ASGD": {"lambd": 0.1, "alpha": 0.5, "t0": 2.0, "weight_decay": 0.1},
    "Rprop": {"etas": (0.4, 1.3), "step_sizes": (1e-4, 0.1)},
}
REST: dict[str, Any] = {"lr": 0.01, "betas": (0.7, 0.9), "weight_decay": 0.3}
"""Arguments of the AdamW beside Muon."""


def settings_of(section: type[Optim]) -> dict[str, Any]:
    """The settings `optim` of an optimizer with all its arguments."""
    rest = {"rest": {"name": "adamw", **REST}} if section.__name__ == "Muon" else {}
    return {"name": section.__name__.lower(), "lr": 0.05, **ARGUMENTS.get(section.__name__, {}), **rest}


def build_plain(section: type[Optim], network: nn.Module, **more: Any) -> list[Optimizer]:
    """Torch's own optimizers: one, or Muon for the matrices and AdamW for what has fewer dimensions."""
    name, parameters = section.__name__, list(network.parameters())
    matrices = [parameter for parameter in parameters if name != "Muon" or parameter.dim() == 2]
    others = [parameter for parameter in parameters if name == "Muon" and parameter.dim() < 2]
    more = {} if name == "Muon" else more
    optimizers = [getattr(torch.optim, name)(matrices, **{"lr": 0.05, **ARGUMENTS[name], **more})]
    return [*optimizers, torch.optim.AdamW(others, **REST)] if others else optimizers
