"""A sweep as a job array: the settings of each task."""

from argparse import ArgumentParser

import pytest

from launch.slurm.resources import Resources, add_resource_arguments
from launch.slurm.submission import write_job_files
from launch.sweeps.job_array import prepare_array
from tests.unit.launch.sweeps.sweep_files import begin


@pytest.mark.usefixtures("small_yaml")
def test_a_task_reads_its_settings_from_the_file_of_its_number() -> None:
    parser = ArgumentParser()
    add_resource_arguments(parser)
    resources = Resources.from_options(parser.parse_args(["--gpus-per-node", "0"]))
    sweep = begin("optim.lr=0.1,0.2", "run.dir=100%a/x", "run.name=y")
    submission = prepare_array(sweep, sweep.trials, resources, 1, "dist-train sweep small.yaml")
    write_job_files(sweep.record.config, submission)
    task = sweep.directory / "jobs" / "1" / "trials" / "1"
    assert task.read_text() == "optim.lr=0.2\nrun.dir=100%a/x.sweep/1-lr=0.2\n"
    assert "--output=100%%a/x.sweep/jobs/slurm-%A_%a.out" in submission.build_command()
    assert "--array=0,1%1" in submission.build_command()
    assert submission.arguments == ("100%a/x.sweep/jobs/1/small.yaml", "run.name=y")
