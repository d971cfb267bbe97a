"""Damaged training images: named in the log and left out, until there are too many of them."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np

FILE = "damaged.txt"
SHOWN = 10  # names in a message; all of them are in the file


class DamagedImages:
    """The damaged images that a run has met.

    Args:
        images: how many training images there are.
        share: up to which share of them may be damaged.
    """

    def __init__(self, images: int, share: float) -> None:
        self.images = images
        self.share = share
        self.path: Path | None = None
        self.names: dict[str, None] = {}  # met by this process, in order
        self.empty_batch = False
        self._listed: set[str] = set()
        self._fault: OSError | None = None
        self._lock = threading.Lock()

    def list_in(self, folder: Path, anew: bool = True) -> None:
        """Lists them in that folder's `damaged.txt` too, one a line; `anew` or behind those that stand there."""
        self.path = folder / FILE
        if anew:
            self.path.unlink(missing_ok=True)
        elif self.path.exists():
            self._listed = set(self.path.read_text(encoding="utf-8").splitlines())

    def report(self, names: np.ndarray, empty_batch: np.ndarray) -> np.int32:
        """What `tf.data` calls with names (N,) as bytes and whether not one image of the batch could be read."""
        self.add(os.fsdecode(name) for name in names)
        self.empty_batch |= bool(empty_batch)
        return np.int32(len(names))

    def add(self, names: Iterable[str]) -> None:
        """Takes note of images, and says so of each once."""
        with self._lock:
            for name in map(on_one_line, names):
                if name in self.names:
                    continue
                self.names[name] = None
                print(f"left out, as it is damaged or cannot be read: {name}", file=sys.stderr)
                if self.path and name not in self._listed:
                    try:
                        with self.path.open("a", encoding="utf-8") as file:
                            file.write(name + "\n")
                    except OSError as error:  # this may be a thread of TensorFlow's: `check` raises it in the run's own
                        self._fault = error

    def check(self) -> None:
        """Raises ValueError with the list where there are more than the share allows; OSError if it cannot be kept."""
        with self._lock:
            count, names = len(self.names), list(self.names)
        if self._fault:
            raise self._fault
        allowed = int(self.share * self.images + 1e-9)
        if count <= allowed and not self.empty_batch:
            return
        listed = ", ".join(names[:SHOWN]) + (f" and {count - SHOWN} more" if count > SHOWN else "")
        where = f" (all of them in {self.path})" if self.path else ""
        reason = f"max_damaged = {self.share:g} allows {allowed}"
        if count <= allowed:
            reason = "not one image of a batch could be read"
        raise ValueError(
            f"{count} of {self.images} training images are damaged or cannot be read, and {reason}: {listed}{where}"
        )


def on_one_line(name: str) -> str:
    """A name as it can be printed and saved, whatever is in it."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in name)
