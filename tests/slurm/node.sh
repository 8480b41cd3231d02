#!/usr/bin/env bash
# node.sh start NODE: switch it on.   node.sh crash NODE: kill everything on it at once, as a power cut does.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# The first process of the node, a child of the unshare that has made it.
first() {
  pgrep --parent "$(alive "$1")" | head -1
}

has_network() {
  local pid
  pid=$(first "$1") && [[ -n $pid && $(readlink "/proc/$pid/ns/net") != "$(readlink /proc/self/ns/net)" ]]
}

start() {
  local node=$1 cable=v${1#n}.$RANDOM ctl # the kernel removes the cable of a dead node when it likes
  is_off "$node" || return 0
  rm -rf "${SLT_RUN:?}/nodes/$node"
  setsid unshare --net --uts --mount --pid --fork --kill-child=KILL --mount-proc \
    "$HERE/ns-init.sh" "$node" "$NET.${node#n}" </dev/null >>"$SLT_RUN/log/$node.out" 2>&1 &
  record "$node" $!
  until_true 10 has_network "$node" || die "$node: $(<"$SLT_RUN/log/$node.out")"
  ctl=$(alive ctl)
  nsenter --target="$ctl" --net ip link add "$cable" type veth peer name eth0 netns "$(first "$node")"
  nsenter --target="$ctl" --net ip link set "$cable" master br0 up
}

crash() {
  kill -KILL "$(first "$1")"
  until_true 10 is_off "$1"
}

is_off() {
  ! alive "$1" >/dev/null
}

case $1 in
start | crash) "$1" "$2" ;;
*) die "node.sh start|crash NODE" ;;
esac
