"""Memory that this process has freed stays with it.

glibc takes every block above 32 MB, and at first those above 128 kB, from the kernel and gives it back when it is
freed. The kernel clears each page when it is touched, so a tensor of every update is cleared before it is written: with
large micro-batches on a CPU that may take as long as the arithmetic.
"""

from __future__ import annotations

import contextlib
import ctypes

from trainer.environment import allocator_is_set

# Of <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Makes glibc's malloc reuse what it has freed, for the rest of this process; returns whether it does.

    The process holds its peak from then on. Nothing happens where somebody has set malloc up in the environment, or
    where the C library is another.
    """
    if allocator_is_set():
        return False
    with contextlib.suppress(OSError, AttributeError):  # no such function
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  (another library's mallopt may mean other things)
        # No block from the kernel by itself, and (-1 is the largest threshold) no end of the heap given back.
        return bool(library.mallopt(_M_MMAP_MAX, 0) and library.mallopt(_M_TRIM_THRESHOLD, -1))
    return False
