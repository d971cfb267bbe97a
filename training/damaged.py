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
        self.names: dict[str, None] = {}
        self.empty_batch = False
        self._lock = threading.Lock()

    def list_in(self, folder: Path) -> None:
        """Lists them in that folder's `damaged.txt` too, one a line; what stands there already counts."""
        self.path = folder / FILE
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            self.names = dict.fromkeys(line for line in lines if line)

    def report(self, names: np.ndarray, empty_batch: np.ndarray) -> np.int32:
        """What `tf.data` calls with names (N,) as bytes and whether not one image of the batch could be read."""
        self.add(os.fsdecode(name) for name in names)
        self.empty_batch |= bool(empty_batch)
        return np.int32(len(names))

    def add(self, names: Iterable[str]) -> None:
        """Takes note of images, and says so of each once."""
        with self._lock:
            for name in map(_on_one_line, names):
                if name in self.names:
                    continue
                self.names[name] = None
                print(f"left out, as it is damaged or cannot be read: {name}", file=sys.stderr)
                if self.path:
                    with self.path.open("a", encoding="utf-8") as file:
                        file.write(name + "\n")

    def check(self) -> None:
        """Raises ValueError, with the list, where there are more than the share allows."""
        with self._lock:
            count, names = len(self.names), list(self.names)
        if count <= self.share * self.images and not self.empty_batch:
            return
        listed = ", ".join(names[:SHOWN]) + (f" and {count - SHOWN} more" if count > SHOWN else "")
        where = f" (all of them in {self.path})" if self.path else ""
        reason = f"max_damaged = {self.share:g} allows {int(self.share * self.images)}"
        if count <= self.share * self.images:
            reason = "not one image of a batch could be read"
        raise ValueError(
            f"{count} of {self.images} training images are damaged or cannot be read, and {reason}: {listed}{where}"
        )


def _on_one_line(name: str) -> str:
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in name)
