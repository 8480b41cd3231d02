"""Find the first step at which two runs differ, bit for bit, in samples, loss, gradients or update.

    dist-train diff runs/digits runs/digits-again

It names the settings that differ, then compares the `ledger.jsonl` of both (log.ledger). Exit code 0: they agree in
every step; 1: they differ.
"""

import argparse
from pathlib import Path

from dist_train.system.escape import escape
from dist_train.system.plural import format_count
from launch.runs.run_settings import describe_gpu_bits, list_differences
from launch.sweeps.sweep_dir import refuse_sweep

MOST = 8  # settings that are named


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", metavar="RUN_A", type=Path, help="directory of a run, e.g. runs/digits")
    parser.add_argument("second", metavar="RUN_B", type=Path, help="directory of the run to compare with")


def run(options: argparse.Namespace) -> int:
    from dist_train.monitoring.ledger_comparison import compare_files
    from dist_train.run_dir import RunDir

    for path in (options.first, options.second):
        refuse_sweep(path)
    names = f"{escape(options.first)} and {escape(options.second)}"
    found = compare_files(RunDir(options.first).ledger, RunDir(options.second).ledger)
    _print_settings(names, list_differences(options.first, options.second))
    if found.divergence is None:
        print(f"{names} agree in {'all ' if found.steps != 1 else ''}{format_count(found.steps, 'step')}")
        return 0
    step, phase, what = found.divergence.step, found.divergence.phase, escape(found.divergence.description)
    if phase:
        print(f"{names} differ at step {step}, in {phase}: {what}")
    else:
        print(f"{names} agree in {format_count(found.steps, 'step')}; step {step}: {what}")
    if phase and phase != "data" and (note := describe_gpu_bits(options.first, options.second)):
        print(note)
    return 1


def _print_settings(names: str, differences: list[str]) -> None:
    if differences:
        more = [f"and {len(differences) - MOST} more"] if len(differences) > MOST else []
        print(f"{names} have other settings: {escape('; '.join(differences[:MOST] + more), 4000)}")
