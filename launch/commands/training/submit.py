"""Train as a Slurm job.

    dist-train submit configs/cifar10_resnet18.yaml --nodes 2 --gpus-per-node 4 --time 8:00:00 [key=value ...]
    dist-train submit configs/digits.yaml --gpus-per-node 0 --nproc-per-node 2 --time 0:10:00
    dist-train submit configs/digits.yaml --profile mycluster -- --constraint=a100     flags after -- go to sbatch

The settings are checked before anything is queued, and Slurm is asked whether such a job can ever run. The job trains
a copy of CONFIG, stored in `jobs/N/` of the run directory, so later edits do not change it. At the time limit and on
preemption the job saves a checkpoint and requeues itself.
"""

import argparse

from dist_train.run_dir import RunDir
from dist_train.system.escape import escape
from launch.arguments import add_config_arguments
from launch.slurm import submission
from launch.slurm.resources import Resources, add_resource_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    add_resource_arguments(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="print the sbatch command and the script; submit nothing"
    )


def run(options: argparse.Namespace) -> int:
    """Check the settings and the resources, then submit the job."""
    from dist_train.recipes import find_config
    from dist_train.settings.loader import load_config
    from dist_train.settings.loading.aliases import expand_all

    config = load_config(options.config, options.overrides)
    resources = Resources.from_options(options)
    resources.check(config)
    path = find_config(options.config)
    resume_command = submission.build_resume_command(options.command_arguments)
    overrides = expand_all(options.config, options.overrides)
    job = submission.prepare_submission(config, path, overrides, resources, resume_command)
    print(resources.describe(config))
    submission.check_submission(job, options.dry_run)
    if options.dry_run:
        return 0
    submission.submit_run(job, config, path)
    print(_suggest_next(RunDir(config.run.dir)))
    return 0


def _suggest_next(run: RunDir) -> str:
    return "\n".join(
        f"  dist-train {command:<10}{escape(run.path)}{flag:<5}{what}"
        for command, flag, what in (
            ("status", "", "show state and progress"),
            ("logs", " -f", "follow the output"),
            ("cancel", "", "save and stop"),
        )
    )
