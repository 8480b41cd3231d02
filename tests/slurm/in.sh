#!/usr/bin/env bash
# in.sh COMMAND...: run it on the login node, in this directory.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
ctl=$(alive ctl) || die "$SLT_RUN does not run"
exec nsenter --target="$ctl" --net --uts --mount --wd="$PWD" -- "$@"
