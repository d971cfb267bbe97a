"""A file that one process holds at a time, or several share, and that is let go when they end, however that happens."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def held(path: Path, wait: bool, shared: bool = False) -> Iterator[int]:
    """Within it no other process holds `path`, which is made -> its descriptor, with which a child holds it too.

    Args:
        wait: till the others let it go. shared: others may hold it as well, if they share it too.

    Raises:
        BlockingIOError: another process holds it, and we are not to wait.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        yield descriptor
    finally:
        os.close(descriptor)
