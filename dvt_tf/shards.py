"""Shards: images with their labels and names in a few large TFRecord files, and how they are read.

A folder of shards holds SPLIT-00000-of-00016.tfrecord files, beside each a .json file that lists what is in it, and the
manifest shards.json, which is written last: what it lists is complete. A record is a tf.train.Example of `image` (a
file that `preprocessing` decodes), `label` (an index into the manifest's class names) and `name` (CLASS/FILENAME).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

FORMAT_VERSION = 1
MANIFEST_FILE = "shards.json"
SHARD_PATTERN = re.compile(r"([a-z]+)-(\d{5,})-of-(\d{5,})\.tfrecord")
_CHUNK = 1 << 20  # bytes read at a time
_FEATURES = {
    "image": tf.io.FixedLenFeature([], tf.string),
    "label": tf.io.FixedLenFeature([], tf.int64),
    "name": tf.io.FixedLenFeature([], tf.string),
}


@dataclass(frozen=True)
class Shard:
    """One TFRecord file: how many examples it holds, its size in bytes and its SHA-256 in hexadecimal digits."""

    path: Path
    examples: int
    size: int
    sha256: str


@dataclass(frozen=True)
class ShardSet:
    """A folder of shards; labels are indices into `class_names`."""

    root: Path
    class_names: tuple[str, ...]
    splits: Mapping[str, tuple[Shard, ...]]


def read_shard_set(root: str | Path) -> ShardSet:
    """The shards of a folder, whose files are all there and of the right size; their contents are not looked at.

    Raises:
        FileNotFoundError: no such folder, or no manifest in it.
        ValueError: a manifest that is damaged or of another version, a file that is missing or of another size.
    """
    root = Path(root)
    manifest = read_manifest(root)
    splits = {
        split: tuple(
            Shard(root / entry["file"], entry["examples"], entry["bytes"], entry["sha256"]) for entry in part["shards"]
        )
        for split, part in manifest["splits"].items()
    }
    again = f"run `python -m training.shard --data {manifest['source']} --out {root}` again, which writes it anew"
    for shard in (shard for shards in splits.values() for shard in shards):
        size = shard.path.stat().st_size if shard.path.is_file() else None
        if size is None:
            raise ValueError(f"{shard.path} is missing; {again}")
        if size != shard.size:
            raise ValueError(f"{shard.path} has {size} bytes, and {shard.size} were written; {again}")
    return ShardSet(root, tuple(manifest["class_names"]), splits)


def read_manifest(root: Path) -> dict[str, Any]:
    """What shards.json says, of the right types: `format_version`, `source`, `class_names`, and `splits`.

    A split is {"shards": [{"file", "examples", "bytes", "sha256"}], "examples", "damaged": names left out}.

    Raises:
        FileNotFoundError, ValueError: as `read_shard_set` does, but for the shards themselves.
    """
    path = root / MANIFEST_FILE
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder of shards; `python -m training.shard` writes them")
    if not path.is_file():
        if any(SHARD_PATTERN.match(entry.name) for entry in root.iterdir()):  # also what is still being written
            raise FileNotFoundError(
                f"{root}: its shards are not finished, as there is no {MANIFEST_FILE}; run the same "
                "`python -m training.shard` again, which goes on with them"
            )
        raise FileNotFoundError(f"{root}: there is no {MANIFEST_FILE} in it; `python -m training.shard` writes shards")
    manifest = _read_json(path)
    version = manifest.get("format_version")
    if isinstance(version, int) and version != FORMAT_VERSION:
        raise ValueError(f"{path} is of format version {version}, and {FORMAT_VERSION} is what can be read")
    if not _is_manifest(manifest):
        raise ValueError(
            f"{path} is damaged; delete it and run `python -m training.shard` again, which keeps the shards it wrote"
        )
    return manifest


def names_in(shard: Shard) -> list[str]:
    """The names, CLASS/FILENAME, of a shard's examples in their order.

    Raises:
        ValueError: the .json file beside it is missing, damaged or that of another shard.
    """
    return read_sidecar(shard)["names"]


def read_sidecar(shard: Shard) -> dict[str, Any]:
    """What the .json file beside a shard says: `file`, `examples`, `bytes`, `sha256`, `names`, `labels`, `damaged`.

    Raises:
        ValueError: as `names_in` does.
    """
    path = sidecar_path(shard.path)
    again = "run the same `python -m training.shard` again, which writes both anew"
    if not path.is_file():
        raise ValueError(f"{path}, which lists what is in {shard.path.name}, is missing; {again}")
    found = _read_json(path)
    if not is_sidecar(found):
        raise ValueError(f"{path} is damaged; {again}")
    if (found["file"], found["examples"], found["sha256"]) != (shard.path.name, shard.examples, shard.sha256):
        raise ValueError(f"{path} is not of {shard.path.name} as it is in {MANIFEST_FILE}; {again}")
    return found


def sidecar_path(path: Path) -> Path:
    """The .json file beside a shard."""
    return path.with_suffix(".json")


def shard_name(split: str, index: int, count: int) -> str:
    """The name of a split's `index`-th of `count` shards."""
    return f"{split}-{index:05}-of-{count:05}.tfrecord"


def records(
    paths: tf.Tensor | Sequence[str | bytes | os.PathLike[str]],
    parallel: int = 1,
) -> tf.data.Dataset:
    """The examples of some shards, in the same order every time.

    Args:
        paths: string (N,), of which a function of tf.data may make any; or a list.
        parallel: how many files to read at a time, an example of each in turn; 1 for one file after the other.

    Returns:
        Contents string (), classes int32 () and names string (). Reading raises tf.errors.DataLossError for a damaged
        file, tf.errors.NotFoundError for one that is missing.
    """
    if not tf.is_tensor(paths):
        paths = tf.constant([os.fsencode(path) for path in paths], tf.string, [len(paths)])
    if parallel > 1:
        files = tf.data.Dataset.from_tensor_slices(paths)
        serialized = files.interleave(
            tf.data.TFRecordDataset, cycle_length=parallel, num_parallel_calls=parallel, deterministic=True
        )
    else:
        serialized = tf.data.TFRecordDataset(paths)
    return serialized.map(_parse)


def to_record(contents: bytes, label: int, name: str) -> bytes:
    """The record of one image: what `records` takes apart again."""
    example = tf.train.Example()
    example.features.feature["image"].bytes_list.value.append(contents)
    example.features.feature["label"].int64_list.value.append(label)
    example.features.feature["name"].bytes_list.value.append(os.fsencode(name))
    return example.SerializeToString(deterministic=True)


def checksum(path: str | Path) -> str:
    """The SHA-256 of a file of any size, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def is_sidecar(found: Mapping[str, Any]) -> bool:
    """Whether that is what the .json file beside a shard says."""
    return (
        _is_entry(found)
        and all(_is_list(found.get(key), str) for key in ("names", "damaged"))
        and _is_list(found.get("labels"), int)
        and len(found["names"]) == len(found["labels"]) == found["examples"]
    )


def _parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    example = tf.io.parse_single_example(record, _FEATURES)
    return example["image"], tf.cast(example["label"], tf.int32), example["name"]


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON file's object; an empty one, which is nobody's, for what is none."""
    try:
        found = json.loads(path.read_bytes())
    except ValueError:  # no JSON, or no text
        return {}
    return found if isinstance(found, dict) else {}


def _is_manifest(found: Mapping[str, Any]) -> bool:
    splits = found.get("splits")
    return (
        found.get("format_version") == FORMAT_VERSION
        and isinstance(found.get("source"), str)
        and _is_list(found.get("class_names"), str)
        and isinstance(splits, dict)
        and bool(splits)
        and all(_is_part(split, part) for split, part in splits.items())
    )


def _is_part(split: str, part: Any) -> bool:
    """Whether that is what a manifest says of a split."""
    if not (isinstance(part, dict) and _is_list(part.get("shards"), dict) and _is_list(part.get("damaged"), str)):
        return False
    shards = part["shards"]
    names = [shard_name(split, index, len(shards)) for index in range(len(shards))]
    return (
        all(_is_entry(entry) for entry in shards)
        and [entry["file"] for entry in shards] == names != []
        and part.get("examples") == sum(entry["examples"] for entry in shards)
    )


def _is_entry(found: Mapping[str, Any]) -> bool:
    texts = all(isinstance(found.get(key), str) for key in ("file", "sha256"))
    return texts and all(type(found.get(key)) is int and found[key] >= 0 for key in ("examples", "bytes"))


def _is_list(found: Any, kind: type) -> bool:
    return isinstance(found, list) and all(type(entry) is kind for entry in found)
