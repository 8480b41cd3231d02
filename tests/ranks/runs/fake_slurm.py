"""A stand-in for Slurm's commands: all nodes of a job are this machine, and `srun` starts its tasks here."""

import os
import stat
import sys
from pathlib import Path

SCONTROL = """#!/usr/bin/env bash
case $* in
  *hostnames*) for ((i = 0; i < SLURM_JOB_NUM_NODES; i++)); do echo localhost; done ;;
  *requeue*) exit 1 ;;
  *"show node"*) echo "NodeName=n NodeAddr=127.0.0.1 x" ;;
  *) echo "JobId=$SLURM_JOB_ID JobState=RUNNING Restarts=0 PreemptTime=None StdOut=/dev/null " ;;
esac
"""
# The last argument that begins with -- is followed by the command of the tasks.
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do
  [[ $1 == --ntasks=* ]] && export SLURM_NTASKS=${1#*=}
  [[ $1 == --ntasks-per-node=* ]] && each=${1#*=}
  shift
done
for ((task = 0; task < SLURM_NTASKS; task++)); do
  SLURM_PROCID=$task SLURM_LOCALID=$((task % each)) SLURM_NODEID=$((task / each)) "$@" &
done
code=0
for ((task = 0; task < SLURM_NTASKS; task++)); do
  wait -n || code=$?
done
exit $code
"""


def fake_slurm(directory: Path, nodes: int, ranks: int) -> dict[str, str]:
    """Write the commands into a directory; returns the variables of a job on `nodes` nodes with `ranks` on each."""
    for name, text in {"scontrol": SCONTROL, "srun": SRUN}.items():
        path = directory / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {
        "PATH": f"{directory}{os.pathsep}{os.environ['PATH']}",
        "SLURM_JOB_ID": str(os.getpid()),  # the port depends on it
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_CPUS_PER_TASK": "2",
        "DIST_TRAIN_NPROC_PER_NODE": str(ranks),
        "DIST_TRAIN_PYTHON": sys.executable,
    }
