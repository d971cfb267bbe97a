"""What this machine's processor has for matmuls, and how many of its cores are ours."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

_KNOWN = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


@functools.cache
def vector_extensions() -> tuple[str, ...]:
    """Those of x86 that matmuls profit from, by Linux's names; none where the system does not tell."""
    information = Path("/proc/cpuinfo")
    flags = information.read_text(encoding="utf-8", errors="replace") if information.is_file() else ""
    return tuple(name for name in _KNOWN if f" {name}" in flags)


def available_cores() -> int:
    """How many cores this process may use."""
    allowed: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1
