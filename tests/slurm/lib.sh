# shellcheck shell=bash
# shellcheck disable=SC2034  # the scripts that read this use the variables
# What the scripts of the test cluster share: its settings, which the environment may change, and its processes.
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CHECKOUT=$(cd "$HERE/../.." && pwd)
SLT_RUN=${SLT_RUN:-/var/tmp/slurm-cluster} # all of its state; not below /tmp, which each node has to itself
SLT_NODES=${SLT_NODES:-4}                  # n1, n2, ...
SLT_PROCTRACK=${SLT_PROCTRACK:-}           # cgroup or linuxproc; the first of them that works here
SLT_EXTRA_CONF=${SLT_EXTRA_CONF:-}         # more lines for slurm.conf
NET=10.77.0                                # seen only inside the cluster's own namespaces
FREEZER=/sys/fs/cgroup/freezer             # of cgroup/v1
CGROUP=$FREEZER/${SLT_RUN##*/}
CPUS=4 GPUS=4                              # of each node, as Slurm sees it; there are no such GPUs
CANNOT=77                                  # exit code: this machine can't have a cluster
export SLURM_CONF=$SLT_RUN/slurm.conf

die() {
  echo "slurm cluster: $*" >&2
  exit 1
}

cannot() {
  echo "no slurm cluster here: $*" >&2
  exit "$CANNOT"
}

# When a process was started, in the kernel's ticks; nothing if it has ended. A number is used again, this pair is not.
started() {
  local fields
  fields=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  read -ra fields <<<"${fields##*) }"
  [[ ${fields[0]} != [ZX] ]] && echo "${fields[19]}"
}

# record NAME PID: note who NAME is.
record() {
  echo "$2 $(started "$2")" >"$SLT_RUN/pids/$1"
}

# alive NAME: its pid, if that very process still runs.
alive() {
  local pid start
  read -r pid start 2>/dev/null <"$SLT_RUN/pids/$1" || return 1
  [[ $(started "$pid") == "$start" ]] && echo "$pid"
}

# stop NAME: TERM, and KILL after three seconds.
stop() {
  local pid
  pid=$(alive "$1") || return 0
  kill -TERM "$pid"
  for _ in {1..60}; do
    alive "$1" >/dev/null || return 0
    sleep 0.05
  done
  kill -KILL "$pid"
}

# until_true SECONDS COMMAND...: whether the command succeeds within that time.
until_true() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < end)) || return 1
    sleep 0.05
  done
}
