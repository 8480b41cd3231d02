"""Explanations of Slurm's refusals."""

import pytest

from launch.slurm import client


@pytest.mark.parametrize(
    ("message", "meaning"),
    [
        ("sbatch: error: invalid partition specified: x", "no such partition"),
        ("sbatch: error: Batch job submission failed: Requested node configuration is not available", "no such nodes"),
        ("sbatch: error: Batch job submission failed: Invalid account or account/partition combination", "--account"),
        ("sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying", "the queue is full"),
        ("sbatch: error: Batch job submission failed: Job violates accounting/QOS policy", "your limit of jobs"),
        ("sbatch: error: Unable to contact slurm controller (connect failure)", "does not answer"),
        ("sbatch: error: Batch job submission failed: Requested time limit is invalid", "a shorter --time"),
    ],
)
def test_a_refusal_is_shown_with_what_it_means(message: str, meaning: str) -> None:
    """The messages are Slurm's own, from its source (slurm_errno.c) and from real refusals."""
    first, second = client.explain_refusal(["sbatch"], message).splitlines()
    assert first == message
    assert meaning in second
