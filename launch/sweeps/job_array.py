"""Submit the trials of a sweep as a Slurm job array, one task per trial."""

from collections.abc import Sequence

from dist_train.run_dir import RunDir
from launch.slurm.resources import Resources
from launch.slurm.submission import (
    Submission,
    check_no_active_job,
    find_next_number,
    write_job_files,
)
from launch.sweeps.sweep import Sweep
from launch.sweeps.sweep_dir import Trial


def prepare_array(
    sweep: Sweep, unfinished: Sequence[Trial], resources: Resources, max_parallel: int | None, resume_command: str
) -> Submission:
    """Return the submission of the unfinished trials; nothing is written.

    Args:
        sweep: the checked sweep.
        unfinished: its trials to submit.
        resources: resources of one trial.
        max_parallel: limit of the tasks that run at once; None: no limit.
        resume_command: the command with which a user resumes the sweep.
    """
    run = RunDir(sweep.directory)
    directory = run.jobs / str(find_next_number(run))
    return Submission(
        resources,
        sweep.settings[0].run.name,
        directory,
        (str(directory / sweep.record.config.name), *sweep.shared_overrides),
        {trial.number: sweep.build_overrides(trial) for trial in unfinished},
        max_parallel,
        resume_command,
    )


def submit_array(submission: Submission, sweep: Sweep) -> None:
    """Write the files of the sweep and of the job, and queue it.

    Raises:
        ConfigError: another job of this sweep is active, or the directory can't be used.
        SlurmError: Slurm refuses the job.
    """
    check_no_active_job(RunDir(sweep.directory))
    with sweep.claim():
        write_job_files(sweep.record.config, submission)
        submission.submit()
