"""The user's networks: how they are built, and messages about one that can't be trained."""

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dist_train.errors import ConfigError, OwnCodeError
from dist_train.models import build_model, give_shapes
from dist_train.settings.schema import OwnModel

HEAD = "import random, numpy\nimport torch\nfrom torch import nn\nfrom torch.nn import functional as F\n"
EXAMPLE = torch.zeros(1, 1, 8, 8)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, whose modules are forgotten after the test."""
    path, modules = list(sys.path), set(sys.modules)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def build(source: str, example: Any = EXAMPLE, seed: int = 0, **args: Any) -> nn.Module:
    Path("nets.py").write_text(HEAD + source)
    return build_model(OwnModel(name="nets.py:Net", args=args), None, 0, seed, example)


NETWORKS = {
    "a class": "class Net(nn.Linear):\n    def __init__(self, size=8): super().__init__(size, 3)\n",
    "a function": "def Net(size=8): return nn.Linear(size, 3)\n",
    "an attribute of a class": "class Net(nn.Linear):\n    def __init__(self): super().__init__(8, 3)\n",
    "lazy layers": (
        "def Net(): return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(3))\n"
    ),
    "batch normalisation": "def Net(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.BatchNorm1d(3))\n",
    "an output of any form": (
        "class Net(nn.Linear):\n    def __init__(self): super().__init__(8, 3)\n"
        "    def forward(self, x): return {'a': super().forward(x), 'b': (1, 'text')}\n"
    ),
    "double precision": (
        "class Net(nn.Linear):\n    def __init__(self): super().__init__(8, 3, dtype=torch.float64)\n"
        "    def forward(self, x): return super().forward(x.double())\n"
    ),
    "a forward of an object": (
        "def Net():\n    net = nn.Linear(8, 3)\n    net.forward = lambda x, y=0: F.linear(x, net.weight)\n"
        "    return net\n"
    ),
    "arguments that a hook gives": (
        "class Net(nn.Linear):\n    def __init__(self):\n        super().__init__(8, 3)\n"
        "        self.register_forward_pre_hook(lambda module, inputs: (*inputs, 2))\n"
        "    def forward(self, x, factor): return factor * super().forward(x)\n"
    ),
    "a frozen part": (
        "def Net():\n    a = nn.Linear(8, 8).requires_grad_(False)\n    return nn.Sequential(a, nn.Linear(8, 3))\n"
    ),
    "tied weights": (
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.a = nn.Linear(8, 8)\n        self.b = nn.Linear(8, 8)\n        self.b.weight = self.a.weight\n"
        "    def forward(self, x): return self.b(self.a(x))\n"
    ),
    "a derivative in its pass": (
        "class Net(nn.Linear):\n    def __init__(self): super().__init__(8, 3)\n"
        "    def forward(self, x):\n        with torch.enable_grad():\n            x = x.clone().requires_grad_()\n"
        "            return torch.autograd.grad(super().forward(x).sum(), x)[0]\n"
    ),
}


@pytest.mark.parametrize("case", NETWORKS)
def test_what_is_built(case: str) -> None:
    network = build(NETWORKS[case])
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    again = build(NETWORKS[case])
    for name, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), f"{name} is not a function of the seed"
    other = build(NETWORKS[case], seed=1)
    assert any(not torch.equal(value, other.state_dict()[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    "draw", ["torch.randn(8)", "torch.tensor(numpy.random.randn(8))", "torch.tensor(random.random())"]
)
def test_initial_weights_are_a_function_of_the_seed(draw: str) -> None:
    source = (
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        f"        self.weight = nn.Parameter({draw})\n    def forward(self, x): return self.weight * x\n"
    )
    drawn = []
    for seed in (0, 0, 1):
        for generator in (random.random, np.random.rand, torch.seed):
            generator()
        (weight,) = build(source, seed=seed).parameters()
        drawn.append(weight)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


REFUSED = {
    "no network": ("def Net(): return None\n", "gives a NoneType, and no torch.nn.Module"),
    "a list": ("def Net(): return [nn.Linear(2, 2)]\n", "gives a list, and no torch.nn.Module"),
    "another class": ("class Net: ...\n", "gives a Net, and no torch.nn.Module"),
    "a class instead of an object": ("def Net(): return nn.Linear\n", "gives a type, and no torch.nn.Module"),
    "an object": ("Net = nn.Linear(8, 3)\n", "is a network already, of the class Linear; name the class"),
    "a number": ("Net = 3\n", "is a int, and no class or function"),
    "a module": ("import math as Net\n", "is a module, and no class or function"),
    "nothing to train": ("def Net(): return nn.ReLU()\n", "it has no parameter to train"),
    "all frozen": ("def Net(): return nn.Linear(8, 3).requires_grad_(False)\n", "it has no parameter to train"),
    "no values": ("def Net(): return nn.Linear(8, 3, device='meta')\n", "is on the device meta"),
    "a state that is no tensor": (
        (
            "class Net(nn.Linear):\n    def __init__(self): super().__init__(8, 3)\n"
            "    def get_extra_state(self): return {'n': 1}\n"
        ),
        "its state_dict has _extra_state, a dict; a checkpoint holds tensors only",
    ),
    "a mask of infinities": (
        (
            "def Net():\n    net = nn.Linear(8, 3)\n    net.register_buffer('mask', torch.tensor([0.0, -torch.inf]))\n"
            "    return net\n"
        ),
        "mask has values that are not finite",
    ),
    "no pass": (
        (
            "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
            "        self.a = nn.Linear(2, 2)\n"
        ),
        "its class Net has no forward(input)",
    ),
    **{
        f"a pass over {arguments or 'nothing'}": (
            (
                "class Net(nn.Linear):\n    def __init__(self): super().__init__(8, 3)\n"
                f"    def forward({', '.join(filter(None, ('self', arguments)))}): return x\n"
            ),
            f"its forward (line 7): takes ({arguments}), and is called with (input)",
        )
        for arguments in ("", "x, mask", "*, x", "x, *, mask")
    },
    **{
        f"a sparse {kind}": (
            (
                "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
                f"        self.table = nn.{kind}(3, 2, sparse=True)\n"
                "    def forward(self, x): return self.table(x.long())\n"
            ),
            "table has sparse gradients, which ranks can't add up",
        )
        for kind in ("Embedding", "EmbeddingBag")
    },
    "a lazy layer that takes no part": (
        (
            "class Net(nn.Linear):\n    def __init__(self):\n        super().__init__(8, 3)\n"
            "        self.spare = nn.LazyLinear(3)\n"
        ),
        "spare.weight has no shape after a pass over the first sample",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_trained_is_refused(case: str) -> None:
    source, message = REFUSED[case]
    with pytest.raises(ConfigError) as caught:
        build(source)
    assert str(caught.value).startswith("model.name nets.py:Net: ")
    assert message in str(caught.value)


RAISES = {
    "in its constructor": (
        "class Net(nn.Module):\n    def __init__(self):\n        raise KeyError('width')\n",
        "model.name nets.py:Net failed:",
        "KeyError: 'width'",
    ),
    "no call of super": (
        "class Net(nn.Module):\n    def __init__(self):\n        self.a = nn.Linear(2, 2)\n",
        "model.name nets.py:Net failed:",
        "AttributeError: cannot assign module before Module.__init__() call",
    ),
    "in its pass": (
        (
            "class Net(nn.Linear):\n    def __init__(self): super().__init__(8, 3)\n"
            "    def forward(self, x):\n        return x[:, 5]\n"
        ),
        "model.name nets.py:Net: a pass over the first sample failed:",
        "IndexError: index 5 is out of bounds for dimension 1 with size 1",
    ),
    "other shapes": (
        (
            "class Net(nn.Linear):\n    def __init__(self): super().__init__(7, 3)\n"
            "    def forward(self, x):\n        return super().forward(x)\n"
        ),
        "model.name nets.py:Net: a pass over the first sample failed:",
        "mat1 and mat2 shapes cannot be multiplied (8x8 and 7x3)",
    ),
    "an exit": ("def Net():\n    raise SystemExit('no')\n", "model.name nets.py:Net failed:", "SystemExit: no"),
}


@pytest.mark.parametrize("case", RAISES)
def test_what_raises_is_shown_as_hers(case: str) -> None:
    source, first, last = RAISES[case]
    with pytest.raises(OwnCodeError) as caught:
        build(source)
    lines = str(caught.value).splitlines()
    assert lines[0] == first
    assert lines[-1].endswith(last)
    assert all("dist_train" not in line for line in lines)
    assert any('nets.py", line' in line for line in lines)


def test_the_example_is_given_as_it_is() -> None:
    source = (
        "class Net(nn.Linear):\n    def __init__(self): super().__init__(8, 3)\n"
        "    def forward(self, x):\n        assert set(x) == {'left', 'right'}, sorted(x)\n"
        "        assert not torch.is_grad_enabled() and not self.training\n"
        "        return super().forward(x['left'] + x['right'])\n"
    )
    example = {"left": torch.zeros(1, 8), "right": torch.zeros(1, 8)}
    network = build(source, example)
    assert isinstance(network, nn.Module)
    with pytest.raises(OwnCodeError, match="AssertionError"):
        build(source, {"left": torch.zeros(1, 8)})


def test_without_an_example_it_is_only_built() -> None:
    source = "class Net(nn.Linear):\n    def __init__(self): super().__init__(8, 3)\n    def forward(self, x): 1 / 0\n"
    weights: list[Tensor] = list(build(source, None).parameters())
    assert len(weights) == 2


def test_lazy_layers_take_their_shapes_from_saved_weights() -> None:
    saved = build(NETWORKS["lazy layers"]).state_dict()
    network = build(NETWORKS["lazy layers"], None)
    give_shapes(network, saved)
    network.load_state_dict(saved)
    assert all(torch.equal(value, saved[name]) for name, value in network.state_dict().items())
