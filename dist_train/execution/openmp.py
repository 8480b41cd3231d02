"""OpenMP threads of threads other than the training thread.

Each thread that computes in parallel has its own team of OpenMP threads. Once there are more of them than cores, the
threads of all teams in GCC's OpenMP sleep instead of spinning while they wait (`gomp_managed_threads` in libgomp's
team.c), as long as the teams exist: after one `isfinite` in another thread, each step of a small network took three
times as long.
"""

import torch


def use_one_thread() -> None:
    """Compute without an OpenMP team in the calling thread, which must not be the training thread.

    Threads that compute for the first time after this call have no team either; other threads keep theirs.
    """
    torch.set_num_threads(1)
