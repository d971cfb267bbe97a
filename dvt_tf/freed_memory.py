"""Keeping memory that was freed, for programs that need as much again in the next step."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_freed_memory() -> None:
    """Has glibc keep large freed blocks: a training step's big tensors are else mapped and faulted in every time.

    Older ones (before 2.35) take no threshold above 32 MB, and any that is set is kept: none is set there.
    """
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt") and libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30):
            libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
