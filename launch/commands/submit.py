"""Train what a file of settings says as a Slurm job.

    dist-train submit configs/cifar10_resnet18.yaml --nodes 2 --gpus-per-node 4 --time 8:00:00 [key=value ...]
    dist-train submit configs/digits.yaml --gpus-per-node 0 --nproc-per-node 2 --time 0:10:00
    dist-train submit configs/digits.yaml --profile mycluster -- --constraint=a100     flags after -- go to sbatch

The settings are checked here and now, and Slurm is asked whether such a job can ever run, before anything is queued.
The job trains a copy of CONFIG as it is now, from `jobs/N/` of the run's directory. At the time limit and when it is
preempted it saves and queues itself again.
"""

import argparse
from pathlib import Path

from dist_train.run_dir import RunDir
from launch.slurm.resources import Resources, add_resource_arguments
from launch.slurm.submission import (
    Submission,
    build_job_overrides,
    build_resume_command,
    check_no_active_job,
    check_submission,
    find_next_number,
    prepare_run_dir,
    write_job_files,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="file of settings, e.g. configs/digits.yaml")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="settings that override the file's"
    )
    add_resource_arguments(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the sbatch line and the script; submit nothing")


def run(options: argparse.Namespace) -> int:
    """Check everything, then submit the job."""
    from dist_train.settings.loader import load_config

    config = load_config(options.config, options.overrides)
    resources = Resources.from_options(options)
    resources.check(config)
    run = RunDir(config.run.dir)
    number = find_next_number(run)
    directory = run.jobs / str(number)
    submission = Submission(
        resources,
        config.run.name,
        directory,
        (str(directory / Path(options.config).name), *build_job_overrides(config, options.overrides)),
        resume_command=build_resume_command(options.given),
    )
    print(resources.describe(config))
    check_submission(submission, options.dry_run)
    if options.dry_run:
        return 0
    check_no_active_job(run)
    with prepare_run_dir(config, run, directory):
        write_job_files(Path(options.config), submission)
        submission.submit()
    print(_suggest_next(run))
    return 0


def _suggest_next(run: RunDir) -> str:
    return "\n".join(
        f"  dist-train {command:<10}{run.path}{flag:<5}{what}"
        for command, flag, what in (
            ("status", "", "how it is doing"),
            ("logs", " -f", "what it prints"),
            ("cancel", "", "save and stop"),
        )
    )
