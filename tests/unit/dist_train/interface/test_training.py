"""`train` and `evaluate` for Python, in one process that goes on afterwards."""

import logging
import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed as dist

from dist_train import TrainingResult, evaluate, load_config, train
from dist_train.errors import CheckpointError, ConfigError, DataError, NonFiniteError, WorldError
from dist_train.settings.schema import Config
from dist_train.system.stop_signals import find_stop_signals
from tests.modules import train as loop

SMALL = ["data.limit_train=96", "data.limit_test=40", "log.every_steps=1"]


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., Config]:
    def load(name: str, *overrides: str) -> Config:
        length = [] if any("max_steps" in each for each in overrides) else ["train.epochs=2"]
        return load_config("digits", [*SMALL, f"run.dir={tmp_path / name}", *length, *overrides])

    return load


def weights(result: TrainingResult) -> bytes:
    return (result.run_dir / "checkpoints" / "latest" / "model.pt").read_bytes()


def test_a_training_and_an_evaluation_of_it(configure: Callable[..., Config], tmp_path: Path) -> None:
    result = train(configure("a"))
    assert result == TrainingResult(tmp_path / "a", 6, is_done=True, evaluations=result.evaluations)
    assert list(result.evaluations) == ["test"]
    evaluation = evaluate(result.run_dir)
    assert evaluation.value("accuracy") == result.evaluations["test"]["accuracy"]
    assert evaluate(str(result.run_dir), "train", "best").to_dict()["count"] == 96
    assert evaluate(result.run_dir, overrides=["data.limit_test=10"]).to_dict()["count"] == 10


def test_twice_in_one_process_gives_the_same_bits_and_a_finished_run_its_result(
    configure: Callable[..., Config],
) -> None:
    first = train(configure("a"))
    torch.rand(3)
    random.seed(7)
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    again = train(configure("b"))
    assert weights(first) == weights(again)
    finished = train(configure("a"))
    assert finished == first


def test_validation_and_test_are_both_in_the_result(configure: Callable[..., Config]) -> None:
    result = train(configure("a", "data.validation=0.25"))
    assert {name: line["count"] for name, line in result.evaluations.items()} == {"validation": 24, "test": 40}
    assert {line["step"] for line in result.evaluations.values()} == {result.step}


def _state() -> dict[str, Any]:
    """What a process has that a training changes."""
    log = logging.getLogger("dist_train")
    return {
        "threads": torch.get_num_threads(),
        "oneDNN": torch.backends.mkldnn.enabled,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "filled": torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        "dtype": torch.get_default_dtype(),
        "torch": torch.get_rng_state().tolist(),
        "random": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),  # type: ignore[index]
        "log": (list(log.handlers), log.level, log.propagate),
        "signals": [signal.getsignal(each) for each in signal.valid_signals()],
        "timer": signal.getitimer(signal.ITIMER_REAL)[0] > 0,
        "environment": dict(os.environ),
        "cores": os.sched_getaffinity(0),
        "thread names": sorted(thread.name for thread in threading.enumerate() if "Tqdm" not in type(thread).__name__),
        "directory": Path.cwd(),
    }


@pytest.mark.parametrize("ending", ["done", "refused", "failed"])
def test_the_process_is_afterwards_as_before(
    configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """With settings unlike those that the training wants."""
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    signal.setitimer(signal.ITIMER_REAL, 1000)
    own = logging.NullHandler()
    logging.getLogger("dist_train").addHandler(own)
    before = _state()
    overrides = {"done": ["run.deterministic=true"], "refused": ["data.validation=0.999"], "failed": []}
    if ending == "failed":
        monkeypatch.setattr(loop, "train_step", lambda *_, **__: 1 / 0)
    config = configure("a", *overrides[ending])
    try:
        train(config)
    except (DataError, ZeroDivisionError):
        assert ending != "done"
    after = _state()
    signal.setitimer(signal.ITIMER_REAL, 0)
    logging.getLogger("dist_train").removeHandler(own)
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(torch.get_num_threads() - 1)
    assert {name: (before[name], after[name]) for name in before if before[name] != after[name]} == {}


def test_an_evaluation_leaves_the_process_as_it_was(configure: Callable[..., Config]) -> None:
    result = train(configure("a", "run.deterministic=true"))
    before = _state()
    evaluate(result.run_dir)
    assert _state() == before


class TestStop:
    @pytest.fixture
    def stopping(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[signal.Signals, int], None]:
        """Send this process a signal in the third step."""

        def install(number: signal.Signals, times: int) -> None:
            step, count = loop.train_step, iter(range(10**6))

            def with_signal(*arguments: Any, **named: Any) -> Any:
                if next(count) == 2:
                    for _ in range(times):
                        signal.raise_signal(number)
                return step(*arguments, **named)

            monkeypatch.setattr(loop, "train_step", with_signal)

        return install

    @pytest.mark.parametrize("number", [each for each in find_stop_signals() if each != signal.SIGALRM])
    def test_a_signal_saves_and_the_same_call_continues(
        self,
        configure: Callable[..., Config],
        stopping: Callable[[signal.Signals, int], None],
        monkeypatch: pytest.MonkeyPatch,
        number: signal.Signals,
    ) -> None:
        stopping(number, 1)
        stopped = train(configure("a"))
        assert (stopped.is_done, stopped.step) == (False, 3)
        monkeypatch.undo()
        ended = train(configure("a"))
        assert (ended.is_done, ended.step) == (True, 6)
        assert weights(ended) == weights(train(configure("b")))

    def test_a_second_interrupt_is_raised(
        self, configure: Callable[..., Config], stopping: Callable[[signal.Signals, int], None]
    ) -> None:
        stopping(signal.SIGINT, 2)
        with pytest.raises(KeyboardInterrupt):
            train(configure("a"))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_a_time_limit_counts_from_the_call(self, configure: Callable[..., Config]) -> None:
        stopped = train(
            configure("a", "run.time_limit_minutes=0.02", "train.epochs=1000000", "train.max_steps=1000000")
        )
        assert not stopped.is_done
        assert stopped.step > 0
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_another_thread_trains_without_touching_signals(configure: Callable[..., Config]) -> None:
    ended: list[object] = []

    def work(*overrides: str) -> None:
        try:
            ended.append(train(configure("a", *overrides)))
        except ConfigError as error:
            ended.append(str(error))

    for overrides in ([], ["run.time_limit_minutes=5"]):
        thread = threading.Thread(target=work, args=overrides)
        thread.start()
        thread.join()
    result, refused = ended
    assert isinstance(result, TrainingResult)
    assert result.is_done
    assert str(refused).startswith("run.time_limit_minutes is 5, but only the main thread")


class TestErrors:
    def test_they_are_those_of_dist_train(self, configure: Callable[..., Config], tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"train\.epoch is not a setting"):
            configure("a", "train.epoch=3")
        config = configure("a", "data.validation=0.999")
        with pytest.raises(DataError, match=r"data\.validation is 0\.999"):
            train(config)
        with pytest.raises(NonFiniteError, match="the loss of step"):
            train(configure("a", "optim.name=sgd", "optim.lr=1e30"))
        with pytest.raises(CheckpointError, match="is not a run"):
            evaluate(tmp_path)

    def test_a_group_of_the_user_is_in_the_way(self, configure: Callable[..., Config], tmp_path: Path) -> None:
        dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
        with pytest.raises(WorldError, match="a process group is open in this process"):
            train(configure("a"))
        dist.destroy_process_group()
        assert train(configure("a")).is_done
