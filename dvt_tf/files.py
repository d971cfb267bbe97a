"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary file to write to, which takes the place of `path` when that went well and is gone when not.

    What was at `path` before is kept until the new file is on the disk, so a full disk or a lost machine loses nothing.
    """
    temporary = path.with_name(path.name + ".writing")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
