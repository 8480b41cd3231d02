"""Tasks and losses with what torch itself says of a whole batch: for one process and for real ranks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from dist_train.settings.loader import load_config
from dist_train.settings.schema import Config

FEATURES, CLASSES, WORDS = 6, 4, 3

OWN = '''
import torch
from torch.nn import functional


def mean(output, target):
    return functional.mse_loss(output, target)


def each(output, target, power=2):
    return (output - target).abs().pow(power).mean(dim=1)


class Margin(torch.nn.Module):
    def __init__(self, margin=1.0):
        super().__init__()
        self.margin = margin

    def forward(self, output, target):
        return (output.mean(dim=1) - target.mean(dim=1) - self.margin).square()


def largest(output, target):
    return (output - target).abs().flatten(1).amax(dim=1)


def mean_error(output, target):
    return (output - target).abs().mean()


def dim_zero_sum(stacked):
    return stacked.sum(dim=0)


def dim_zero_mean(stacked):
    return stacked.mean(dim=0)


def dim_zero_cat(stacked):
    return torch.cat(stacked)


class Spread:
    """As an object of torchmetrics: one state of each kind of reduction."""

    def __init__(self):
        self._defaults = {"total": torch.zeros((), dtype=torch.float64), "mean": torch.zeros(()), "seen": []}
        self._reductions = {"total": dim_zero_sum, "mean": dim_zero_mean, "seen": dim_zero_cat}
        self.reset()

    def reset(self):
        for name, default in self._defaults.items():
            setattr(self, name, [] if isinstance(default, list) else default.clone())

    def update(self, output, target):
        self.total = self.total + (output - target).sum()
        self.mean = (output - target).mean()
        self.seen.append((output - target).flatten())

    def compute(self):
        seen = torch.cat(self.seen)
        weights = torch.arange(1, len(seen) + 1)
        return {"order": (seen * weights).sum(), "std": seen.std(), "total": self.total, "mean": self.mean}


class Task:
    metrics = {"largest": largest, "spread": Spread()}

    def loss(self, output, target):
        return (output - target).square().mean(dim=1)
'''


class Case(NamedTuple):
    """A task, and its loss of a whole batch by torch alone."""

    settings: str
    outputs: int
    make_targets: Callable[[int, torch.Generator], Tensor]
    reference: Callable[[Tensor, Tensor], Tensor]
    shape: tuple[int, ...] = ()
    """Of the output of a sample, if it is not [outputs]."""


def _labels(count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, CLASSES, (count,), generator=generator)


def _words(count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, CLASSES, (count, WORDS), generator=generator)


def _some_words(count: int, generator: torch.Generator) -> Tensor:
    """Sentences of different lengths; the padding is -100."""
    lengths = torch.randint(1, WORDS + 1, (count, 1), generator=generator)
    return torch.where(torch.arange(WORDS) < lengths, _words(count, generator), -100)


def _shares(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, CLASSES, generator=generator, dtype=torch.float64).softmax(dim=1)


def _number(count: int, generator: torch.Generator) -> Tensor:
    return torch.randn(count, generator=generator, dtype=torch.float64)


def _numbers(count: int, generator: torch.Generator) -> Tensor:
    return torch.randn(count, 2, generator=generator, dtype=torch.float64)


def _flags(count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, (count, CLASSES), generator=generator)


WEIGHT = torch.tensor([0.5, 2.0, 1.0, 4.0], dtype=torch.float64)
POS_WEIGHT = torch.tensor([1.0, 3.0, 0.5, 2.0], dtype=torch.float64)


def _one(function: Callable[..., Tensor], **arguments: Any) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda output, target: function(output.squeeze(1), target, **arguments)


CASES = {
    "cross_entropy": Case("", CLASSES, _labels, functional.cross_entropy),
    "smoothing": Case(
        "loss: {args: {label_smoothing: 0.2}}", CLASSES, _labels,
        lambda output, target: functional.cross_entropy(output, target, label_smoothing=0.2),
    ),
    "weights": Case(
        f"loss: {{name: cross_entropy, args: {{weight: {WEIGHT.tolist()}, label_smoothing: 0.1}}}}", CLASSES, _labels,
        lambda output, target: functional.cross_entropy(output, target, WEIGHT, label_smoothing=0.1),
    ),
    "shares of classes": Case(f"loss: {{args: {{weight: {WEIGHT.tolist()}}}}}", CLASSES, _shares,
        lambda output, target: functional.cross_entropy(output, target, WEIGHT)),
    "words": Case("", CLASSES * WORDS, _words, functional.cross_entropy, (CLASSES, WORDS)),
    "padded words": Case(
        "loss: {args: {ignore_index: -100}}\nmetrics: [accuracy, top2, macro_f1, confusion_matrix]",
        CLASSES * WORDS, _some_words, functional.cross_entropy, (CLASSES, WORDS),
    ),
    "weighted padded words": Case(
        f"loss: {{args: {{ignore_index: -100, weight: {WEIGHT.tolist()}}}}}", CLASSES * WORDS, _some_words,
        lambda output, target: functional.cross_entropy(output, target, WEIGHT), (CLASSES, WORDS),
    ),
    "nll": Case(f"loss: {{name: nll, args: {{weight: {WEIGHT.tolist()}}}}}", CLASSES, _labels,
        lambda output, target: functional.nll_loss(output, target, WEIGHT)),
    "mse": Case("task: regression", 1, _number, _one(functional.mse_loss)),
    "mse of two": Case("task: regression", 2, _numbers, functional.mse_loss),
    "mae": Case("task: regression\nloss: mae", 1, _number, _one(functional.l1_loss)),
    "huber": Case("task: regression\nloss: {name: huber, args: {delta: 0.3}}", 2, _numbers,
        lambda output, target: functional.huber_loss(output, target, delta=0.3)),
    "half_sse": Case("task: regression\nloss: half_sse", 1, _number,
        _one(lambda output, target: 0.5 * (output - target).square().sum())),
    "bce": Case("task: multilabel\nmetrics: [accuracy, exact_match, macro_f1, micro_f1, per_class]", CLASSES, _flags,
        lambda output, target: functional.binary_cross_entropy_with_logits(output, target.double())),
    "bce with weights": Case(
        f"task: multilabel\nloss: {{args: {{pos_weight: {POS_WEIGHT.tolist()}, weight: 0.5}}}}", CLASSES, _flags,
        lambda output, target: functional.binary_cross_entropy_with_logits(
            output, target.double(), torch.tensor(0.5), pos_weight=POS_WEIGHT
        ),
    ),
    "own mean": Case("task: regression\nloss: own.py:mean\nmetrics: [rmse, 'own.py:largest', 'own.py:mean_error']",
        2, _numbers, functional.mse_loss),
    "own values": Case("task: regression\nloss: {name: 'own.py:each', args: {power: 3}}\nmetrics: ['own.py:Spread']",
        2, _numbers, lambda output, target: (output - target).abs().pow(3).mean()),
    "own module": Case("task: regression\nloss: {name: 'own.py:Margin', args: {margin: 0.5}}", 2, _numbers,
        lambda output, target: (output.mean(dim=1) - target.mean(dim=1) - 0.5).square().mean()),
    "own task": Case("task: 'own.py:Task'", 2, _numbers, functional.mse_loss),
}  # fmt: skip


class Net(nn.Module):
    def __init__(self, case: Case) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(FEATURES, 5), nn.Tanh(), nn.Linear(5, case.outputs)).double()
        self.shape = case.shape or (case.outputs,)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs).unflatten(1, self.shape)  # type: ignore[no-any-return]


def write_files(directory: Path) -> None:
    """Write the settings of all cases, and the user's code."""
    (directory / "own.py").write_text(OWN)
    for name, case in CASES.items():
        text = f"data: {{name: synthetic}}\nmodel: {{name: lenet}}\n{case.settings}\n"
        (directory / f"{name.replace(' ', '_')}.yaml").write_text(text)


def configure(directory: Path, name: str) -> Config:
    """Return the settings of a case from the files in a directory."""
    return load_config(directory / f"{name.replace(' ', '_')}.yaml", ["optim.lr=0.1"])


def make_samples(name: str, count: int) -> tuple[Tensor, Tensor]:
    """Return inputs, float64 [count, FEATURES], and targets of a case."""
    generator = torch.Generator().manual_seed(count)
    inputs = torch.randn(count, FEATURES, generator=generator, dtype=torch.float64)
    return inputs, CASES[name].make_targets(count, generator)
