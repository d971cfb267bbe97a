"""What this machine's processor has for matmuls."""

from __future__ import annotations

import functools
from pathlib import Path

_KNOWN = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


@functools.cache
def vector_extensions() -> tuple[str, ...]:
    """Those of x86 that matmuls profit from, by Linux's names; none where the system does not tell."""
    information = Path("/proc/cpuinfo")
    flags = information.read_text(encoding="utf-8", errors="replace") if information.is_file() else ""
    return tuple(name for name in _KNOWN if f" {name}" in flags)
