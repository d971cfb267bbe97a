"""Keeping memory that was freed, for programs that need as much again in the next step."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_freed_memory() -> None:
    """Has glibc keep large freed blocks: a training step's big tensors are else mapped and faulted in every time.

    One that refuses the first threshold is left alone: the second would end its adapting the first by itself.
    """
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt") and libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30):
            libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
