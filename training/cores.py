"""How many cores this process may use, and whether they are enough."""

from __future__ import annotations

import os
from collections.abc import Callable


def available_cores() -> int:
    """How many cores this process may use."""
    allowed: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def refuse_more_replicas(count: int, cores: int) -> None:
    """Raises ValueError where so many parts of the processor have no core each."""
    if not 1 <= count <= cores:
        raise ValueError(f"--cpu-replicas is {count}; it must be from 1 to {cores}, a core for each")
