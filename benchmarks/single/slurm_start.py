"""Seconds from `sbatch` to the first step of two ranks on two nodes, on the tests' Slurm cluster.

    python -m benchmarks.single.slurm_start [--pairs 7]

Runs a bare script under plain `srun torchrun` and `slurm/train.sbatch` in turns. Prints medians and the difference.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

from tests.conftest import ROOT
from tests.slurm.cluster import Cluster

CONFIG = """
data: {name: synthetic, num_train: 64, num_test: 8, global_batch: 32}
model: {name: mnist_cnn}
train: {max_steps: 2}
eval: {every_epochs: 0}
log: {every_steps: 1}
distributed: {threads: 1}
"""
BARE = (
    "srun --ntasks-per-node=1 {python} -m torch.distributed.run --nnodes=2 --nproc-per-node=1 --rdzv-backend=c10d "
    "--rdzv-endpoint=n1:29876 --rdzv-id=$SLURM_JOB_ID {script} {answer}"
)
SCRIPT = ROOT / "benchmarks" / "compare" / "programs" / "bare_start.py"
RESOURCES = ("--nodes=2", "--ntasks-per-node=1", "--nodelist=n1,n2", "--time=5")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.single.slurm_start",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pairs", type=int, default=7)
    pairs = parser.parse_args().pairs
    with Cluster("bench") as cluster:
        (cluster.work / "small.yaml").write_text(CONFIG, encoding="utf-8")
        timed = [(bare(cluster, number), ours(cluster, number)) for number in range(pairs)]
    for name, seconds in zip(("bare script", "train.sbatch"), zip(*timed, strict=True), strict=True):
        print(f"{name:<14}{statistics.median(seconds):6.2f} s  ({min(seconds):.2f} to {max(seconds):.2f}, n {pairs})")
    print(f"difference    {statistics.median(b - a for a, b in timed):6.2f} s  (median of pairs)")


def bare(cluster: Cluster, number: int) -> float:
    """Seconds to the first step of the bare script."""
    answer = cluster.work / f"bare-{number}"
    command = BARE.format(python=sys.executable, script=SCRIPT, answer=answer)
    started = time.time()
    job = cluster.submit(*RESOURCES, f"--wrap={command}", cwd=cluster.work, env=variables())
    cluster.wait(job, "COMPLETED")
    return float(json.loads(answer.read_text(encoding="utf-8"))["time"]) - started


def ours(cluster: Cluster, number: int) -> float:
    """Seconds to the first step of a run."""
    run = Path("runs") / str(number)
    script = str(ROOT / "slurm" / "train.sbatch")
    started = time.time()
    job = cluster.submit(*RESOURCES, script, "small.yaml", f"run.dir={run}", cwd=cluster.work, env=variables())
    cluster.wait(job, "COMPLETED")
    first = (cluster.work / run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0]
    return float(json.loads(first)["time"]) - started


def variables() -> dict[str, str]:
    own = {"PYTHONPATH": str(ROOT), "DIST_TRAIN_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    return os.environ | own


if __name__ == "__main__":
    main()
