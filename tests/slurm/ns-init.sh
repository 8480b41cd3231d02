#!/usr/bin/env bash
# ns-init.sh NAME ADDRESS: the first process of a node, or of the controller, inside its new namespaces.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
name=$1 address=$2

run_controller() {
  ip link add br0 type bridge
  ip addr add "$address/24" dev br0
  ip link set br0 up
  touch "$SLT_RUN/nodes/ctl.ready"
  exec slurmctld -D -c -f "$SLURM_CONF"
}

# A /tmp of its own; where this checkout lies below /tmp, it stays in sight.
mount_tmp() {
  local tmp=$SLT_RUN/nodes/$name/tmp
  mkdir -p "$tmp"
  chmod 1777 "$tmp"
  if [[ $CHECKOUT == /tmp/* ]]; then
    mkdir -p "$tmp/${CHECKOUT#/tmp/}"
    mount --bind "$CHECKOUT" "$tmp/${CHECKOUT#/tmp/}"
  fi
  mount --rbind "$tmp" /tmp
}

# The cgroups of a cluster lie in one of its own, so that two clusters do not mix up jobs of the same number.
mount_cgroup() {
  [[ -w $FREEZER/cgroup.procs ]] || return 0
  mkdir -p "$CGROUP"
  mount --bind "$CGROUP" "$FREEZER"
}

has_cable() {
  ip link show eth0 >/dev/null 2>&1
}

run_node() {
  mount_tmp
  mount_cgroup
  mount -t tmpfs -o mode=1777 tmpfs /dev/shm
  until_true 10 has_cable || die "$name has no network"
  ip addr add "$address/24" dev eth0
  ip link set eth0 up
  slurmd -D -N "$name" -f "$SLURM_CONF" &
  while :; do # a node without its slurmd is not dead, and somebody has to reap orphans
    wait || true
    sleep 60
  done
}

hostname "$name"
ip link set lo up
mount --bind "$SLT_RUN/hosts" /etc/hosts
if [[ $name == ctl ]]; then run_controller; else run_node; fi
