"""Compare a recovered run with the run that had no fault."""

from launch.drill.training_process import TrainingProcess

SAME_ON_ANY_RANKS = ("samples", "lr")
"""Ledger fields that stay the same when the number of ranks changes under `run.reproducible: elastic`."""


def find_difference(run: TrainingProcess, reference: TrainingProcess, *, has_other_ranks: bool) -> str | None:
    """Describe the first difference of `run` from `reference`, or return None.

    Args:
        run: the run that had a fault and was recovered.
        reference: the run without a fault.
        has_other_ranks: the number of ranks changed under `run.reproducible: elastic`, which keeps samples and
            learning rates but not the bits of the weights.
    """
    from dist_train.monitoring.ledger_comparison import PHASES, compare

    if code := run.wait_for_exit():
        return f"ended with exit code {code} after {run.starts} starts: {run.read_output().strip()[-300:]}"
    fields = SAME_ON_ANY_RANKS if has_other_ranks else tuple(PHASES)
    divergence = compare(run.read_ledger(), reference.read_ledger(), fields).divergence
    if divergence:
        step, phase, what = divergence.step, divergence.phase, divergence.description
        return f"differs from the run without a fault at step {step} in {phase}: {what}"
    found, expected = run.read_weights_hash(), reference.read_weights_hash()
    if not has_other_ranks and found != expected:
        return f"weights {found}, without a fault {expected}"
    return None
