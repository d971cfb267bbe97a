"""Image folders, ROOT/SPLIT/CLASS/FILE: the files of each split, and which of val's are calibration and test."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dvt_tf import image_files

_CALIBRATION_SHARE, _TEST_SHARE = 0.4, 0.4


def folder_files(root: str | Path, split: str) -> tuple[list[Path], list[str]]:
    """The image files of one split of a folder and the class name of each, sorted by class and name.

    Raises:
        FileNotFoundError: the folder, or the split's folder in it, does not exist.
        ValueError: no class folder or no image is in it.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    source = source_split(root, split)
    derived = [name for name in ("calibration", "test") if not (root / name).is_dir()]
    paths, names = [], []
    for folder in class_folders(root / source):
        for path in sorted(folder.iterdir()):
            if not (image_files.is_image_name(path) and path.is_file()):
                continue
            if source == "val" and hashed_split(f"{folder.name}/{path.name}", derived) != split:
                continue
            paths.append(path)
            names.append(folder.name)
    if not paths:
        share = f" (as its share of {root / 'val'})" if source != split else ""
        raise ValueError(f"{root}: no image found for split {split!r}{share}")
    return paths, names


def unlabelled_files(root: str | Path, split: str) -> list[Path]:
    """All image files of a folder and of those in it, sorted: without labels there is one use for them, calibration.

    Raises:
        FileNotFoundError: no such folder. ValueError: another split was asked for, or there is no image.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    if split != "calibration":
        raise ValueError(f"images:{root} has no labels and no splits: it can be calibrated on, as a whole, and no more")
    paths = sorted(path for path in root.rglob("*") if image_files.is_image_name(path) and path.is_file())
    if not paths:
        raise ValueError(f"{root}: no image found in it")
    return paths


def hashed_split(name: str, derived: Sequence[str] = ("calibration", "test")) -> str:
    """Which split a file of val belongs to, the same for good: calibration 40 %, test 40 %, val the rest.

    Args:
        name: what identifies the file: CLASS/FILENAME.
        derived: the splits to be taken out of val; one that is not among them leaves its share in val.
    """
    share = int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big") / 2**64
    if share < _CALIBRATION_SHARE:
        wanted = "calibration"
    else:
        wanted = "test" if share < _CALIBRATION_SHARE + _TEST_SHARE else "val"
    return wanted if wanted in derived else "val"


def class_folders(folder: Path) -> list[Path]:
    """The folders in a split's folder, by name; FileNotFoundError or ValueError where there is none."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; images are looked for in {folder}/CLASS/")
    found = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not found:
        raise ValueError(f"{folder}: no class folder in it; images are looked for in {folder}/CLASS/")
    return found


def source_split(root: Path, split: str) -> str:
    """The folder that a split is read from: its own, or val."""
    if split not in ("calibration", "test") or (root / split).is_dir():
        return split
    return "val"


def read_files(paths: np.ndarray) -> np.ndarray:
    """Paths (B,) -> contents (B,) that the graph decodes, "" for what cannot be read."""

    def read(path: bytes) -> bytes:
        try:
            data = Path(os.fsdecode(path)).read_bytes()
            # What is damaged inside a format of the graph's own shows when it is decoded.
            return data if data.startswith(image_files.GRAPH_FORMATS) else image_files.to_graph_bytes(data)
        except (OSError, image_files.ImageError):
            return b""

    return np.array([read(path) for path in paths], dtype=object)
