#!/usr/bin/env bash
# Start a real Slurm cluster on this machine: munged, slurmctld, and a slurmd for each node. As root; no systemd.
#
# Each node has a network address, a host name, processes, /tmp and /dev/shm of its own. All other files are shared, as
# on a cluster's disk. Exits with 77 and a word where a machine can't have one; lib.sh has the settings.
set -euo pipefail
export LC_ALL=C
. "$(dirname "$0")/lib.sh"

check_machine() {
  [[ $(id -u) == 0 ]] || cannot "it takes root"
  unshare --net --uts --mount --pid --fork sh -c 'ip link add br0 type bridge || ! command -v ip' 2>/dev/null ||
    cannot "this machine refuses namespaces"
  if [[ -z $SLT_PROCTRACK ]]; then
    SLT_PROCTRACK=linuxproc
    [[ ! -w $FREEZER/cgroup.procs ]] || SLT_PROCTRACK=cgroup
  fi
  [[ $SLT_PROCTRACK != cgroup || -w $FREEZER/cgroup.procs ]] || cannot "proctrack/cgroup: no $FREEZER that root may write"
}

install_packages() {
  local package missing=() log=$SLT_RUN/log/apt.log policy=/usr/sbin/policy-rc.d has_made=
  for package in slurmctld slurmd slurm-client munge iproute2; do
    [[ $(dpkg-query -Wf '${db:Status-Status}' $package 2>/dev/null) == installed ]] || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  command -v apt-get >/dev/null || cannot "${missing[*]} are not installed, and there is no apt-get"
  if [[ ! -e $policy ]]; then # keeps the packages from starting daemons of their own
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
    has_made=yes
  fi
  {
    apt-get update -q &&
      DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 install -yq --no-install-recommends "${missing[@]}"
  } >"$log" 2>&1 || { tail -20 "$log" >&2 && die "apt-get can't install ${missing[*]}"; }
  [[ -z $has_made ]] || rm $policy
}

configure() {
  local node
  sed -e "s#@RUN@#$SLT_RUN#g" -e "s#@NET@#$NET#g" -e "s#@PROCTRACK@#$SLT_PROCTRACK#g" "$HERE/slurm.conf.in" >"$SLURM_CONF"
  printf '127.0.0.1 localhost\n%s.254 ctl\n' "$NET" >"$SLT_RUN/hosts"
  for ((node = 1; node <= SLT_NODES; node++)); do
    echo "$NET.$node n$node" >>"$SLT_RUN/hosts"
    echo "NodeName=n$node NodeAddr=$NET.$node CPUs=$CPUS CoresPerSocket=$CPUS RealMemory=8000 Gres=gpu:$GPUS"
  done >>"$SLURM_CONF"
  echo "$SLT_EXTRA_CONF" >>"$SLURM_CONF"
  for ((gpu = 0; gpu < GPUS; gpu++)); do # character devices, or Slurm leaves CUDA_VISIBLE_DEVICES unset
    mknod "$SLT_RUN/dev/gpu$gpu" c 1 3
  done
  echo "Name=gpu File=$SLT_RUN/dev/gpu[0-$((GPUS - 1))]" >"$SLT_RUN/gres.conf"
  printf '%s\n' CgroupPlugin=cgroup/v1 CgroupMountpoint=/sys/fs/cgroup CgroupAutomount=no >"$SLT_RUN/cgroup.conf"
}

start_munged() {
  local munge=$SLT_RUN/munge
  head -c 128 /dev/urandom >"$munge/key"
  chmod 600 "$munge/key"
  munged --force --num-threads=2 --key-file="$munge/key" --socket="$munge/sock" --pid-file="$munge/pid" \
    --seed-file="$munge/seed" --log-file="$SLT_RUN/log/munged.log" 2>"$SLT_RUN/log/munged.err" ||
    { cat "$SLT_RUN"/log/munged.* >&2 && die "munged does not start"; }
  record munged "$(<"$munge/pid")"
}

start_controller() {
  setsid unshare --net --uts --mount "$HERE/ns-init.sh" ctl "$NET.254" \
    </dev/null >"$SLT_RUN/log/ctl.out" 2>&1 &
  record ctl $!
  until_true 10 test -e "$SLT_RUN/nodes/ctl.ready" || die "no controller: $(<"$SLT_RUN/log/ctl.out")"
}

start_nodes() {
  local node pids=()
  for ((node = 1; node <= SLT_NODES; node++)); do
    "$HERE/node.sh" start "n$node" &
    pids+=($!)
  done
  for node in "${pids[@]}"; do
    wait "$node" || die "a node does not start"
  done
}

all_idle() {
  alive ctl >/dev/null || { tail "$SLT_RUN"/log/slurmctld.log >&2 && die "slurmctld has ended"; }
  [[ $("$HERE/in.sh" sinfo --noheader --states=idle --partition=debug --format=%D 2>/dev/null) == "$SLT_NODES" ]]
}

check_machine
"$HERE/down.sh"
umask 022
mkdir "$SLT_RUN" # if it is there now, it is not ours
mkdir "$SLT_RUN"/{pids,log,state,dev,nodes,munge}
chmod 711 "$SLT_RUN/munge" # munged refuses a directory that others may write
install_packages
configure
start_munged
start_controller
start_nodes
until_true 60 all_idle || { "$HERE/in.sh" sinfo -N -o '%N %t %E' >&2 && die "the nodes do not become idle"; }
