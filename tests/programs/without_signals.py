"""`without_signals.py MODULE ...`: run a module, and print the signals that it would send to others."""

import os
import runpy
import signal
import sys
from typing import Any


def refuse(target: int, number: int, *_: Any) -> None:
    if number:  # 0 only asks whether the process is there
        print(f"SIGNAL {number} to {target}", flush=True)
    raise ProcessLookupError


if __name__ == "__main__":
    os.kill = os.killpg = signal.pidfd_send_signal = refuse
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
