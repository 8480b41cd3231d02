"""Sweeps: the files written, unfinished trials, added grids, refusals."""

import json
from pathlib import Path

import pytest

from dist_train.errors import ConfigError
from launch.sweeps.sweep_dir import read_trials
from tests.unit.launch.sweeps.sweep_files import CONFIG, begin, leave, names, sweep_of

pytestmark = pytest.mark.usefixtures("small_yaml")


def test_what_is_written(workdir: Path) -> None:
    sweep = begin("optim.lr=0.1,0.2", "run.name=x", "train.epochs=1")
    assert json.loads((workdir / "runs/x.sweep/sweep.json").read_text()) == {
        "config": "small.yaml",
        "overrides": ["run.name=x", "train.epochs=1"],
        "axes": {"optim.lr": ["0.1", "0.2"]},
        "trials": [
            {"number": 0, "overrides": ["optim.lr=0.1"], "dir": "runs/x.sweep/0-lr=0.1"},
            {"number": 1, "overrides": ["optim.lr=0.2"], "dir": "runs/x.sweep/1-lr=0.2"},
        ],
    }
    assert (sweep.directory / "small.yaml").read_text() == CONFIG
    assert sweep.build_overrides(sweep.trials[1]) == ("optim.lr=0.2", "run.dir=runs/x.sweep/1-lr=0.2")


def test_a_directory_of_the_run_is_given_to_none_of_the_trials() -> None:
    sweep = begin("optim.lr=0.1,0.2", "run.dir=other/place", "train.epochs=1")
    assert sweep.directory == Path("other/place.sweep")
    assert sweep.shared_overrides == ("train.epochs=1",)


def test_done_trials_stay_and_others_are_left() -> None:
    sweep = begin("optim.lr=0.1,0.2,0.3,0.4")
    for number, state in enumerate(["done", "failed", "preempted"]):
        leave(sweep, number, state)
    again = sweep_of("optim.lr=0.1,0.2,0.3,0.4")
    assert again.trials == sweep.trials
    assert [trial.number for trial in again.find_unfinished()] == [1, 2, 3]


def test_another_grid_joins() -> None:
    begin("optim.lr=0.1,0.2")
    begin("optim.lr=0.3,1e-1", "data.global_batch=16,32")
    assert [trial.path.name for trial in read_trials(Path("runs/small.sweep"))] == [
        "0-lr=0.1",
        "1-lr=0.2",
        "2-lr=0.3-global_batch=16",
        "3-lr=0.3-global_batch=32",
        "4-lr=1e-1-global_batch=32",
    ]
    assert names(sweep_of("data.global_batch=32,16", "optim.lr=0.3,0.2"))[1:] == [
        "5-global_batch=32-lr=0.2",
        "2-lr=0.3-global_batch=16",
        "1-lr=0.2",
    ]
    axes = json.loads(Path("runs/small.sweep/sweep.json").read_text())["axes"]
    assert axes == {"optim.lr": ["0.1", "0.2", "0.3", "1e-1"], "data.global_batch": ["16", "32"]}


@pytest.mark.parametrize(
    ("overrides", "config", "message"),
    [
        (["optim.lr=0.1,0.2", "train.epochs=3"], CONFIG, "  train.epochs: was 2, is now 3"),
        (["optim.lr=0.1,0.2"], CONFIG.replace("mnist_cnn", "lenet"), "  model.name: was mnist_cnn"),
        (["run.seed=1,2"], CONFIG.replace("0.02", "0.03"), "  optim.lr: was 0.02, is now 0.03"),
    ],
)
def test_a_sweep_of_other_settings_is_refused(workdir: Path, overrides: list[str], config: str, message: str) -> None:
    begin("optim.lr=0.1,0.2")
    (workdir / "small.yaml").write_text(config)
    with pytest.raises(ConfigError) as refused:
        sweep_of(*overrides)
    assert message in str(refused.value)
    assert "set another run.name" in str(refused.value)


def test_what_means_the_same_goes_on(workdir: Path) -> None:
    begin("optim.lr=0.1,0.2")
    (workdir / "small.yaml").write_text(f"# the same\n{CONFIG}")
    assert names(sweep_of("optim.lr=0.1,0.2", "train.epochs=2")) == ["0-lr=0.1", "1-lr=0.2"]


def test_each_fault_of_all_trials_is_reported_once() -> None:
    with pytest.raises(ConfigError) as refused:
        sweep_of("optim.lr=0.1,1e-1,fast", "data.global_batch=8,0", "optim.lrr=1")
    faults = str(refused.value).splitlines()
    assert len(faults) == len(set(faults))
    for message in ("optim.lrr is not a setting", "optim.lr is 'fast'", "data.global_batch is 0"):
        assert sum(message in line for line in faults) == 1


def test_old_settings_as_axes_are_refused_with_the_new_names() -> None:
    with pytest.raises(ConfigError) as refused:
        begin("log.every=1,2", "data.loader=resident,workers")
    assert str(refused.value).splitlines() == [
        "command line: log.every=1: log.every is 1; this setting is now called log.every_steps",
        "command line: data.loader=resident: data.loader is 'resident'; this value is now called in_memory",
        "command line: log.every=2: log.every is 2; this setting is now called log.every_steps",
    ]


def test_equal_trials_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"optim\.lr=0\.1 and optim\.lr=1e-1: the same trial"):
        sweep_of("optim.lr=0.1,1e-1")


def test_it_can_t_start_again() -> None:
    with pytest.raises(ConfigError, match=r"To start again, remove runs/small\.sweep"):
        sweep_of("optim.lr=0.1,0.2", "run.resume=never")


def test_files_of_others_are_left_alone(workdir: Path) -> None:
    (workdir / "runs/small.sweep").mkdir(parents=True)
    (workdir / "runs/small.sweep/thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"has files but no sweep\.json"):
        sweep_of("optim.lr=0.1,0.2")


def test_a_list_that_was_changed_is_refused() -> None:
    sweep = begin("optim.lr=0.1,0.2")
    (sweep.directory / "sweep.json").write_text('{"trials": []}')
    with pytest.raises(ConfigError, match="is damaged: KeyError"):
        sweep_of("optim.lr=0.1,0.2")


def test_a_grid_that_has_joined_meanwhile_is_not_lost() -> None:
    begin("optim.lr=0.1,0.2")
    late = sweep_of("optim.lr=0.1,0.3")
    begin("optim.lr=0.1,0.4")
    with pytest.raises(ConfigError, match="trials of another grid were added just now"), late.claim():
        pytest.fail("claimed")
