"""The kernels of a step, and how long the GPU is busy with them, by torch's profiler in an ordinary run."""

import time
from dataclasses import dataclass

from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile

from benchmarks.compare.workloads import Workload
from benchmarks.gpu.speed import Setup, load_settings
from dist_train.distributed.world import open_world
from dist_train.system.stop_signals import Stop
from dist_train.train import train
from dist_train.training.reporter import MainReporter

FIRST = 20
"""Finished steps before the profiled ones: kernels are loaded, and the batches of a first group are prepared."""


@dataclass(frozen=True)
class StepProfile:
    """Means over the profiled steps."""

    launches: float
    """Kernels and copies on a GPU; operations of torch on a CPU."""
    busy: float
    """Share of the time in which they ran; more than 1 where they ran side by side."""
    table: str
    """The operations that took longest."""


def profile_steps(workload: Workload, setup: Setup, steps: int) -> StepProfile:
    """Profile `steps` steps of an ordinary run, after the first ones."""
    config = load_settings(workload, setup, *([] if setup.on_gpu else ["data.global_batch=4"]))
    stop, times, count_step = Stop(), list[float](), MainReporter.count_step
    profiler = profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setup.on_gpu else [])])

    def count_and_profile(self: MainReporter) -> None:
        """In place of `MainReporter.count_step`, which is called after each step."""
        count_step(self)
        step = self._state.step
        if step not in (FIRST, FIRST + steps):
            return
        setup.wait()
        times.append(time.perf_counter())
        if step == FIRST:
            profiler.start()
        else:
            profiler.stop()
            stop.reason = "the end of the profile"

    MainReporter.count_step = count_and_profile  # type: ignore[method-assign]
    try:
        train(config, open_world(config.distributed, {}), stop)
    finally:
        MainReporter.count_step = count_step  # type: ignore[method-assign]
    device = DeviceType.CUDA if setup.on_gpu else DeviceType.CPU
    events = profiler.events() or []  # type: ignore[no-untyped-call]
    found = [event.time_range.elapsed_us() for event in events if event.device_type == device]
    order = f"self_{'cuda' if setup.on_gpu else 'cpu'}_time_total"
    table = profiler.key_averages().table(sort_by=order, row_limit=15, max_name_column_width=60)
    return StepProfile(len(found) / steps, sum(found) / 1e6 / (times[1] - times[0]), table)
