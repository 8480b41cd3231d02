"""What losses give beside numbers: of complex numbers, of the network's own; and what is refused."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dist_train.distributed.world import World
from dist_train.errors import ConfigError, DataError, OwnCodeError
from dist_train.tasks import Task, build_task
from dist_train.tasks.losses import BUILT_IN, OwnLoss, build_loss
from dist_train.tasks.metrics import make_own_metric
from tests.unit.dist_train.tasks.cases import CASES, Net, configure, make_samples, write_files


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cases")
    write_files(path)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_a_loss_has_the_type_of_the_output(directory: Path, name: str, dtype: torch.dtype) -> None:
    """Whatever the target has; an own function decides that itself."""
    network, (inputs, targets) = Net(CASES[name]).to(dtype), make_samples(name, 2)
    targets = targets.to(dtype) if "own" in name or name == "shares of classes" else targets
    assert build_task(configure(directory, name), ()).loss_sum(network(inputs.to(dtype)), targets, 2).dtype == dtype


@pytest.mark.parametrize("name", ["mse", "mae", "huber", "half_sse"])
def test_a_loss_of_complex_numbers_is_that_of_their_distances(name: str) -> None:
    output, target = torch.randn(2, 4, 3, dtype=torch.complex128).unbind()
    distance = (output - target).abs()
    expected = {
        "mse": distance.square().mean(1).sum(),
        "mae": distance.mean(1).sum(),
        "huber": functional.huber_loss(distance, torch.zeros_like(distance), reduction="none").mean(1).sum(),
        "half_sse": distance.square().sum() / 2,
    }
    torch.testing.assert_close(build_loss(name, {}, World()).sum(output, target, 4, output), expected[name])


def test_one_number_a_sample_may_have_a_dimension_or_not() -> None:
    """And is never compared with those of other samples."""
    output, target = torch.randn(2, 4, 1).unbind()
    for name in (*BUILT_IN, "half_sse"):
        loss = build_loss(name, {}, World())
        sums = {
            loss.sum(one, other, 4, one).item() for one in (output, output[:, 0]) for other in (target, target[:, 0])
        }
        assert len(sums) == 1
        for wrong in (target.T, target[:3], target[:, :0], torch.randn(4, 2), torch.randn(4, 1, 2)):
            with pytest.raises(DataError, match=rf"loss {name}: the output is float32 \[4, 1\] and the target float32"):
                loss.sum(output, wrong, 4, output)


@pytest.mark.parametrize(
    ("output", "target"),
    [
        (torch.randn(4, 3), torch.randn(4)),
        (torch.randn(4, 3), torch.zeros(4, 1, dtype=torch.int64)),
        (torch.randn(4, 3), torch.zeros(3, dtype=torch.int64)),
        (torch.randn(4), torch.zeros(4, dtype=torch.int64)),
        (torch.randn(4, 3, 2), torch.zeros(4, 3, dtype=torch.int64)),
        (torch.zeros(4, 3, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)),
        ({"logits": torch.randn(4, 3)}, torch.zeros(4, dtype=torch.int64)),
        (torch.randn(4, 3), [0, 1, 2, 0]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_logits_and_labels_is_named(output: Any, target: Any) -> None:
    with pytest.raises(DataError) as refusal:
        build_loss("cross_entropy", {}, World()).sum(output, target, 4, output)
    assert "the output is" in str(refusal.value)
    assert "it needs logits [B, classes] and labels, integers [B]" in str(refusal.value)
    assert ("loss.output=" in str(refusal.value)) == isinstance(output, dict)


@pytest.mark.parametrize("target", [torch.randn(4, 1), torch.zeros(4, dtype=torch.int64)])
def test_one_output_is_no_classification(target: Tensor) -> None:
    """Its cross-entropy would always be 0."""
    with pytest.raises(DataError, match="of two classes at least; task=regression"):
        build_loss("cross_entropy", {}, World()).sum(torch.randn(4, 1), target, 4, None)


@pytest.mark.parametrize("target", [torch.tensor([[0.5, 1.5]] * 2), torch.tensor([[-0.1, 1.0]] * 2)])
def test_numbers_are_no_shares_of_classes(directory: Path, target: Tensor) -> None:
    task = build_task(configure(directory, "cross_entropy"), ())
    with pytest.raises(DataError, match=r"targets of floats are shares of classes, between 0 and 1, and these are"):
        task.try_out(torch.randn(2, 2, requires_grad=True), target, 2)


@pytest.mark.parametrize("label", [3, -1, -100, 2**40])
@pytest.mark.parametrize("name", ["cross_entropy", "nll"])
def test_labels_out_of_range_are_named(name: str, label: int) -> None:
    target = torch.tensor([0, label, 2])
    with pytest.raises(
        DataError, match=f"labels from {min(0, label)} to {max(2, label)}, but the output has 3 classes"
    ):
        build_loss(name, {}, World()).sum(torch.randn(3, 3), target, 3, None)
    with pytest.raises(DataError, match="the output has 3 classes"):
        build_loss(name, {"ignore_index": 1}, World()).sum(torch.randn(3, 3), target, 3, None)


def test_integers_of_any_type_are_labels() -> None:
    output, target = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    expected = functional.cross_entropy(output, target, reduction="sum")
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
        assert build_loss("cross_entropy", {}, World()).sum(output, target.to(dtype), 4, output) == expected


def test_weights_are_one_a_class() -> None:
    with pytest.raises(ConfigError, match=r"loss.args.weight has 2 numbers, but the output has 3 classes"):
        build_loss("cross_entropy", {"weight": [1, 2]}, World()).sum(torch.randn(2, 3), torch.tensor([0, 1]), 2, None)
    with pytest.raises(ConfigError, match=r"loss.args.pos_weight has 2 numbers, and a sample \[3\]"):
        build_loss("bce_with_logits", {"pos_weight": [1, 2]}, World()).sum(torch.randn(2, 3), torch.ones(2, 3), 2, None)


def test_a_step_of_ignored_labels_only_changes_nothing(directory: Path) -> None:
    task = build_task(configure(directory, "padded words"), ())
    output = torch.randn(2, 4, 3, requires_grad=True)
    targets = torch.full((2, 3), -100)
    task.begin_step(_Batch(targets))
    loss = task.loss_sum(output, targets, 2)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert output.grad is not None
    assert not output.grad.any()


class _Batch:
    """A global batch of one pass."""

    def __init__(self, targets: Tensor) -> None:
        self.targets, self.number, self.num_samples, self.count = targets, 0, len(targets), len(targets)
        self.passes = self.shards = (self,)


# The user's own


WRONG: dict[str, tuple[Callable[..., Any], str]] = {
    "text": (lambda _output, _target: "0.5", "returns a str, not a tensor of floats"),
    "nothing": (lambda _output, _target: None, "returns a NoneType, not a tensor of floats"),
    "a number": (lambda _output, _target: 0.5, "returns a float, not a tensor of floats"),
    "integers": (lambda _output, target: target, r"returns int64 \[2\], not a tensor of floats"),
    "complex": (lambda output, _target: output.sum() * 1j, r"returns complex64 \[\], not a tensor of floats"),
    "a tuple": (lambda output, _target: (output.sum(),), r"returns a tuple of float32 \[\], not a tensor"),
    "one value more": (lambda output, _target: output.new_zeros(3), r"returns float32 \[3\] for 2 samples"),
    "all values": (lambda output, _target: output, r"returns float32 \[2, 4\] for 2 samples"),
    "a column": (lambda output, _target: output[:, :1], r"returns float32 \[2, 1\] for 2 samples"),
    "no gradient": (lambda output, _target: output.detach().sum(), "has no gradient"),
    "a constant": (lambda _output, _target: torch.tensor(1.0), "has no gradient"),
}


def _task(loss: Callable[..., Any]) -> Task:
    return Task(OwnLoss("own.py:f", loss), [], None, (), World(), None)


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_loss_is_refused_before_the_first_step(name: str) -> None:
    function, message = WRONG[name]
    with pytest.raises(ConfigError, match=f"loss own.py:f: .*{message}"):
        _task(function).try_out(torch.randn(2, 4, requires_grad=True), torch.tensor([0, 1]), 2)


def _zero(output: Tensor, target: Tensor) -> Tensor:
    target.zero_()
    return functional.cross_entropy(output, target)


def _add(output: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(output.add_(1), target)


@pytest.mark.parametrize(("function", "what"), [(_zero, "target"), (_add, "output")])
def test_a_loss_that_changes_what_metrics_get_is_refused(function: Callable[..., Any], what: str) -> None:
    with pytest.raises(ConfigError, match=f"loss own.py:f: changes the {what} in place"):
        _task(function).try_out(torch.randn(2, 4), torch.tensor([0, 1]), 2)


OWN_METRICS: dict[str, tuple[Any, str | None]] = {
    "changes its target": (lambda _output, target: target.zero_().sum().float(), "changes the target in place"),
    "changes its output": (lambda output, _target: output.zero_().sum(), "changes the output in place"),
    "another shape": (lambda output, _target: output, r"returns float32 \[2, 4\] for 2 samples"),
    "a text": (lambda _output, _target: "0.5", "returns a str"),
    "raises": (lambda _output, _target: 1 / 0, None),
    "a mean": (lambda output, _target: output.mean(), None),
}


@pytest.mark.parametrize("name", OWN_METRICS)
def test_own_metrics_are_tried_before_the_first_step(name: str) -> None:
    """One that raises may do so of the example only, which is one sample twice."""
    function, message = OWN_METRICS[name]
    metric = make_own_metric("m", "own.py:m", function, World())
    task = Task(OwnLoss("own.py:f", functional.cross_entropy), [metric], None, (), World(), None)
    with nullcontext() if message is None else pytest.raises(ConfigError, match=f"metric own.py:m .*{message}"):
        task.try_out(torch.randn(2, 4, requires_grad=True), torch.tensor([0, 1]), 2)


@pytest.mark.parametrize("name", ["no gradient", "a constant"])
def test_a_loss_whose_gradient_is_gone_in_a_later_step_is_refused_then(name: str) -> None:
    with pytest.raises(ConfigError, match=r"loss own.py:f: .*has no gradient"):
        _task(WRONG[name][0]).loss_sum(torch.randn(2, 4, requires_grad=True), torch.tensor([0, 1]), 2)
    with torch.no_grad():  # an evaluation needs none
        assert not _task(WRONG[name][0]).loss_sum(torch.randn(2, 4), torch.tensor([0, 1]), 2).requires_grad


def test_a_loss_that_is_not_a_number_may_be_so_of_equal_samples_only() -> None:
    """The step says so, if it is."""
    _task(lambda output, _target: output.sum() * float("nan")).try_out(
        torch.randn(2, 4, requires_grad=True), torch.tensor([0, 1]), 2
    )


def test_an_error_is_shown_as_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def f(output, target):\n    return output @ target.undefined\n")
    loss = build_loss(f"{tmp_path}/own.py:f", {}, World())
    with pytest.raises(OwnCodeError) as error:
        loss.sum(torch.randn(2, 3), torch.zeros(2), 2, None)
    text = str(error.value)
    assert "called with float32 [2, 3] and float32 [2] on rank 0" in text
    assert f'{tmp_path}/own.py", line 2, in f' in text
    assert "dist_train/" not in text
    assert text.endswith("AttributeError: 'Tensor' object has no attribute 'undefined'")


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("def f(output, target):\n    return 1", 3),
        ("import functools\n\ndef other(output, target):\n    return 1\n\nf = functools.wraps(other)(lambda *_: 1)", 5),
        ("class f:\n    def __call__(self, output, target):\n        return 1", 4),
        ("import torch\nclass f(torch.nn.Module):\n    def forward(self, output, target):\n        return 1", 5),
    ],
)
def test_a_message_names_the_line_of_the_function(tmp_path: Path, code: str, line: int) -> None:
    (tmp_path / "own.py").write_text(f"\n\n{code}\n")
    with pytest.raises(ConfigError, match=rf"loss {tmp_path}/own.py:f \(line {line}\): returns a int"):
        build_loss(f"{tmp_path}/own.py:f", {}, World()).sum(torch.randn(2, 3), torch.zeros(2), 2, None)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("f = 3", "is a int, and no function f"),
        ("import torch\nf = torch.nn.Linear(2, 2)", "it has parameters to train; make it a part of the model"),
    ],
)
def test_what_is_no_function_is_refused(tmp_path: Path, code: str, message: str) -> None:
    (tmp_path / "own.py").write_text(code)
    with pytest.raises(ConfigError, match=message):
        build_loss(f"{tmp_path}/own.py:f", {}, World())


def test_a_network_may_return_its_loss() -> None:
    loss = build_loss("output.loss", {}, World())
    values = torch.randn(3, requires_grad=True)
    assert loss.sum(None, None, 3, {"loss": values}) == values.sum()
    assert loss.sum(None, None, 3, {"loss": values.mean()}) == values.mean() * 3
    with pytest.raises(ConfigError, match=r"loss.name is loss, but the network's output is a dict with logits"):
        loss.sum(None, None, 3, {"logits": values})
