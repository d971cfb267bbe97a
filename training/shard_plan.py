"""Which images of a folder go into which shard, and what may be in the way."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dvt_tf import datasets, image_files
from dvt_tf.shards import MANIFEST_FILE, SHARD_PATTERN, read_manifest, shard_name
from training.shard_work import ShardJob

MEGABYTE = 1_000_000


def splits_of(data: str) -> tuple[Path, list[str]]:
    """A folder of images and which of its splits are to be written.

    Args:
        data: a SPEC, folder:PATH or folder:PATH@SPLIT.

    Raises:
        ValueError, FileNotFoundError: it is another kind of SPEC, or a folder is not there.
    """
    spec = datasets.parse_spec(data)
    if spec.kind != "folder":
        raise ValueError(f"--data is {data}; shards are written of folder:PATH or folder:PATH@SPLIT only")
    root = Path(spec.location)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    splits = [spec.split] if spec.split else [split for split in datasets.SPLITS if (root / split).is_dir()]
    if not splits:
        raise ValueError(f"{root}: none of the folders {', '.join(datasets.SPLITS)} is in it")
    for split in splits:
        if not (root / split).is_dir():
            raise FileNotFoundError(f"{root / split}: no such folder")
    return root, splits


def class_names_of(root: Path, splits: Sequence[str]) -> tuple[str, ...]:
    """The class folders, which must be those of every split, as a label is a place among them; else ValueError."""
    first, *others = splits
    names = datasets.class_names(datasets.DataSpec("folder", str(root)), first)
    for split in others:
        found = datasets.class_names(datasets.DataSpec("folder", str(root)), split)
        if found != names:
            differing = sorted(set(found) ^ set(names))
            raise ValueError(f"{root}: {first} and {split} differ in class folders: {', '.join(differing[:5])}")
    return names


def plan_split(
    root: Path, split: str, class_names: Sequence[str], out: Path, shard_mb: float, check: bool
) -> list[ShardJob]:
    """The shards of one split: the same for the same files, and each a mixture of all classes.

    Args:
        root: folder with the split's folder. class_names: its class folders. out: where the shards go. shard_mb:
            of one, about. check: see `ShardJob`.

    Raises:
        ValueError: there is no image.
    """
    found = [
        (f"{name}/{file}", size, label)
        for label, name in enumerate(class_names)
        for file, size in _images_in(root / split / name)
    ]
    if not found:
        raise ValueError(f"{root / split}: no image in any class folder of it")
    wanted = math.ceil(sum(size for _, size, _ in found) / (shard_mb * MEGABYTE))
    count = min(max(wanted, 1), len(found))
    # By a hash of the names, an order that no version of anything changes.
    found.sort(key=lambda image: (hashlib.sha256(b"shards " + os.fsencode(image[0])).digest(), image[0]))
    jobs = []
    for index in range(count):
        names, sizes, labels = zip(*found[index::count], strict=True)
        path = out / shard_name(split, index, count)
        jobs.append(ShardJob(path, root / split, names, sizes, labels, check))
    return jobs


def other_splits(out: Path, splits: Sequence[str], class_names: Sequence[str]) -> dict[str, Any]:
    """What the manifest in a folder, if there is one, says of splits that are not to be written now.

    Raises:
        ValueError: they are of data with other classes, or the manifest is damaged.
    """
    if not (out / MANIFEST_FILE).is_file():
        return {}
    manifest = read_manifest(out)
    others = {split: part for split, part in manifest["splits"].items() if split not in splits}
    if others and tuple(manifest["class_names"]) != tuple(class_names):
        raise ValueError(f"{out} holds {', '.join(others)} of data with other classes; give another --out")
    return others


def refuse_another_layout(out: Path, splits: Sequence[str], wanted: set[str]) -> None:
    """Raises ValueError where a folder holds shards of these splits under other names than those `wanted`."""
    found = (entry.name for entry in out.iterdir() if SHARD_PATTERN.fullmatch(entry.name))
    other = sorted(name for name in found if name not in wanted and split_of(name) in splits)
    if other:
        raise ValueError(
            f"{out} holds {len(other)} shards of another layout, such as {other[0]} (there would be {len(wanted)} "
            "shards now); give another --out, or the --data and --shard-mb that they were written with"
        )


def split_of(path: Path | str) -> str:
    """The split that a shard's file name begins with."""
    return Path(path).name.partition("-")[0]


def _images_in(folder: Path) -> list[tuple[str, int]]:
    """Names and sizes of the image files in a folder, by name."""
    with os.scandir(folder) as entries:
        found = [entry for entry in entries if image_files.is_image_name(Path(entry.name)) and entry.is_file()]
        return sorted((entry.name, entry.stat().st_size) for entry in found)
