"""Threads beside the one that trains.

Each thread that computes in parallel has a team of OpenMP's threads of its own. Once there are more of them than cores,
GCC's OpenMP lets all of them sleep where they would have waited awake (`gomp_managed_threads` in libgomp's team.c), for
as long as the teams last: after one `isfinite` beside it, each of a small network's steps took three times as long.
"""

import torch


def compute_alone() -> None:
    """Let the thread that calls this compute without a team; not the one that trains.

    Threads that compute for the first time after it have none either. Those that have computed keep theirs.
    """
    torch.set_num_threads(1)
