"""Keeps freed memory in the process, for the next frame's tensors, which have the same sizes."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_MIB = 1024**2


def keep_freed_memory() -> bool:
    """Let glibc's malloc reuse blocks of up to 32 MiB and hold up to 256 MiB back; whether it is glibc and agreed.

    By default it returns large blocks to the kernel at once, and fetching them again costs a fault for every page:
    thousands a frame. Blocks above 32 MiB, the most that glibc takes here, still come and go.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all((mallopt(_M_MMAP_THRESHOLD, 32 * _MIB), mallopt(_M_TRIM_THRESHOLD, 256 * _MIB)))
