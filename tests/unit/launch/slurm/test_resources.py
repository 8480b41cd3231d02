"""The resources of a job: defaults, checks against the settings, and flags of sbatch."""

from argparse import ArgumentParser
from pathlib import Path

import pytest

from dist_train.errors import ConfigError
from dist_train.settings.loader import load_config
from dist_train.settings.schema import Config
from launch.slurm.resources import Resources, add_resource_arguments


def resources_of(*arguments: str, flags: tuple[str, ...] = ()) -> Resources:
    parser = ArgumentParser()
    add_resource_arguments(parser)
    options = parser.parse_args(arguments)
    options.passed_on = flags
    return Resources.from_options(options)


def load(directory: Path, *overrides: str) -> Config:
    path = directory / "small.yaml"
    path.write_text("data: {name: synthetic, global_batch: 32}\nmodel: {name: mnist_cnn}\n")
    return load_config(path, overrides)


@pytest.mark.parametrize(
    ("arguments", "override", "message"),
    [
        (["--gpus-per-node=2", "--nproc-per-node=3"], "run.seed=1", "each rank needs its own GPU"),
        (["--gpus-per-node=2"], "distributed.backend=gloo", "would leave GPUs idle"),
        (["--gpus-per-node=0"], "distributed.backend=nccl", "which needs GPUs"),
        (["--gpus-per-node=4", "--nodes=9"], "run.seed=1", "data.global_batch is 32, less than the 36 ranks"),
    ],
)
def test_resources_that_do_not_fit_the_settings_are_refused(
    tmp_path: Path, arguments: list[str], override: str, message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        resources_of(*arguments).check(load(tmp_path, override))
    assert message in str(refused.value)


def test_a_profile_gives_the_defaults(tmp_path: Path) -> None:
    profile = tmp_path / "gpus.yaml"
    profile.write_text("{gpus_per_node: 4, partition: gpu, mem: 64G, sbatch: [--constraint=a100]}")
    resources = resources_of("--nodes=2", "--partition=debug", f"--profile={profile}", flags=("--nice",))
    assert (resources.ranks, resources.cpus_per_task, resources.mem) == (8, 4, "64G")
    assert resources.build_flags()[-3:] == ["--partition=debug", "--constraint=a100", "--nice"]


@pytest.mark.parametrize(("time", "is_short"), [("4", True), ("0:05:00", False)])
def test_a_short_time_limit_is_warned_of(tmp_path: Path, time: str, is_short: bool) -> None:
    described = resources_of("--gpus-per-node=0", f"--time={time}").describe(load(tmp_path))
    assert (f"--time {time}: the job is stopped 120 s before the limit" in described) is is_short


@pytest.mark.parametrize("flag", ["--array=0-3", "--output=x", "-Jname", "-a", "--export=NONE", "-M", "--wrap=true"])
def test_reserved_flags_are_refused(flag: str) -> None:
    with pytest.raises(ConfigError, match=f"^{flag}: can't be passed to sbatch"):
        resources_of("--gpus-per-node=0", flags=(flag,))
