#!/usr/bin/env bash
# Stop the cluster with every process in it, and remove its state. Harmless where there is none.
set -uo pipefail
. "$(dirname "$0")/lib.sh"

[[ -d $SLT_RUN/pids ]] || exit 0
for file in "$SLT_RUN"/pids/n*; do
  node=${file##*/}
  pid=$(alive "$node") && kill -KILL "$pid" # its --kill-child takes the whole node along
done
stop ctl
stop munged
gone() { ! [[ -d $CGROUP ]] || find "$CGROUP" -depth -type d -exec rmdir {} + 2>/dev/null; }
until_true 5 gone || echo "slurm cluster: $CGROUP can't be removed" >&2
rm -rf "$SLT_RUN"
