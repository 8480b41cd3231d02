"""The C library's memory allocator on CPU."""

import ctypes
import os
import re
from collections.abc import Mapping

# Parameters of mallopt(3); the threshold is the highest value that glibc accepts on 64-bit systems.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER, _HIGHEST = -1, 32 * 2**20
_OTHER_ALLOCATORS = re.compile(r"jemalloc|tcmalloc|mimalloc|snmalloc|tbbmalloc")
_TUNING_VARIABLES = (
    "GLIBC_TUNABLES",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_MMAP_MAX_",
    "MALLOC_TOP_PAD_",
)


def keep_freed_memory(environ: Mapping[str, str] = os.environ) -> str:
    """Let glibc keep freed memory for later allocations; return which allocator is in use.

    By default glibc returns large blocks to the system when they are freed, and the next step pays a page fault for
    each of their pages. Results do not change. Has to be called before large tensors are allocated.

    Returns:
        `glibc, keeps freed memory`, or `system` with the reason why nothing was changed.
    """
    if other := _OTHER_ALLOCATORS.search(environ.get("LD_PRELOAD", "")):
        return f"system ({other[0]} is preloaded)"
    if tuned := [name for name in _TUNING_VARIABLES if name in environ]:
        return f"system ({', '.join(tuned)} set)"
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return "system (not glibc)"
    # Both are needed: once one is set, glibc stops adapting the other and maps every block above 128 KiB separately.
    is_set = library.mallopt(_MMAP_THRESHOLD, _HIGHEST) and library.mallopt(_TRIM_THRESHOLD, _NEVER)
    return "glibc, keeps freed memory" if is_set else "system (glibc refuses)"
