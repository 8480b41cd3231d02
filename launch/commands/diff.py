"""Find the first step at which two runs differ, bit for bit, in samples, loss, gradients or update.

    dist-train diff runs/digits runs/digits-again

It compares the `ledger.jsonl` of both (log.ledger). Exit code 0: they agree in every step; 1: they differ.
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", metavar="RUN_A", type=Path, help="directory of a run, e.g. runs/digits")
    parser.add_argument("second", metavar="RUN_B", type=Path, help="directory of the run to compare with")


def run(options: argparse.Namespace) -> int:
    from dist_train.errors import LedgerError
    from dist_train.monitoring.ledger import compare, read
    from dist_train.run_dir import RunDir

    runs = [RunDir(path) for path in (options.first, options.second)]
    ledgers = [read(run.ledger) for run in runs]
    for run, lines in zip(runs, ledgers, strict=True):
        if not lines:
            raise LedgerError(f"{run.ledger}: has no steps yet; they are written in blocks, and with each checkpoint")
    found = compare(ledgers[0], ledgers[1])
    names = f"{options.first} and {options.second}"
    if found.divergence is None:
        print(f"{names} agree in all {found.steps} steps")
        return 0
    step, phase, what = found.divergence.step, found.divergence.phase, found.divergence.description
    if phase:
        print(f"{names} differ at step {step}, in {phase}: {what}")
    else:
        print(f"{names} agree in {found.steps} steps; step {step}: {what}")
    return 1
