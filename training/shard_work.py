"""One shard, written or looked through: what a worker process of `training.shard` does."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from dvt_tf import image_files
from dvt_tf.files import written_whole
from dvt_tf.shards import Shard, checksum, is_sidecar, read_sidecar, records, sidecar_path, to_record
from training.jobs import Tick


@dataclass(frozen=True)
class ShardJob:
    """One shard to write: the images `names` (CLASS/FILENAME) of `folder` with their sizes and labels, into `path`.

    With `check`, one that is there already must have the checksum that it was written with.
    """

    path: Path
    folder: Path
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    labels: tuple[int, ...]
    check: bool = False

    @property
    def digest(self) -> str:
        """What the shard is made of, as far as can be told without reading the images."""
        found = hashlib.sha256()
        for name, size, label in zip(self.names, self.sizes, self.labels, strict=True):
            found.update(b"%s\0%d\0%d\n" % (os.fsencode(name), size, label))
        return found.hexdigest()


@dataclass(frozen=True)
class Written:
    """A shard that is whole on the disk: its entry in the manifest, and the names of images left out."""

    entry: dict[str, Any]
    damaged: list[str]
    kept: bool


@dataclass(frozen=True)
class CheckJob:
    """One shard to look through; its labels are below `classes`."""

    shard: Shard
    classes: int


def write_shard(job: ShardJob, tick: Tick) -> Written:
    """Writes one shard and the file that lists what is in it, unless they are there already; raises OSError."""
    if sidecar := _finished(job):
        tick(len(job.names))
        return _written(sidecar, kept=True)
    # Gone before the list of what is in it changes, so that the two never disagree.
    job.path.unlink(missing_ok=True)
    names: list[str] = []
    labels: list[int] = []
    damaged: list[str] = []
    with written_whole(job.path) as temporary:
        with _writer(temporary, job.path) as write:
            for name, label in zip(job.names, job.labels, strict=True):
                tick(1)
                contents = _contents(job.folder / name)
                if contents is None:
                    damaged.append(name)
                else:
                    write(to_record(contents, label, name))
                    names.append(name)
                    labels.append(label)
        sidecar = {
            "file": job.path.name,
            "examples": len(names),
            "bytes": temporary.stat().st_size,
            "sha256": checksum(temporary),
            "of": job.digest,
            "names": names,
            "labels": labels,
            "damaged": damaged,
        }
        write_json(sidecar_path(job.path), sidecar)
    return _written(sidecar, kept=False)


def check_shard(job: CheckJob, tick: Tick) -> str:
    """Looks through one shard; returns what is wrong with it, "" for nothing."""
    shard = job.shard
    try:
        if checksum(shard.path) != shard.sha256:
            return "it has not the bytes that were written (SHA-256)"
        sidecar = read_sidecar(shard)
        expected = list(zip(sidecar["labels"], sidecar["names"], strict=True))
        found = []
        for contents, label, name in records([shard.path]).as_numpy_iterator():
            tick(1)
            found.append((int(label), os.fsdecode(name)))
            image_files.to_graph_bytes(contents, found[-1][1])
            if not 0 <= label < job.classes:
                return f"{found[-1][1]} has label {label}, and there are {job.classes} classes"
    except (ValueError, OSError) as error:
        return one_line(error)
    except tf.errors.OpError as error:
        return one_line(error.message)
    return "" if found == expected else f"its {len(found)} records are not those that {sidecar_path(shard.path)} lists"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a file of a folder of shards, whole or not at all."""
    # In ASCII, so that bytes of a name that are no text survive as the surrogates they were read as.
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="ascii")


def one_line(error: Exception | str) -> str:
    """What an error says; a name and a reason where it comes from the system."""
    if isinstance(error, OSError) and error.strerror:
        error = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())


def _finished(job: ShardJob) -> dict[str, Any] | None:
    """What is in a shard that an earlier run finished; None for one that is to be written."""
    try:
        sidecar = json.loads(sidecar_path(job.path).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    if not (isinstance(sidecar, dict) and is_sidecar(sidecar) and sidecar.get("of") == job.digest):
        return None
    if not job.path.is_file() or job.path.stat().st_size != sidecar["bytes"]:
        return None
    if job.check and checksum(job.path) != sidecar["sha256"]:
        return None
    # An image that could not be read for another reason than its contents may have come back.
    if any(_contents(job.folder / name) is not None for name in sidecar["damaged"]):
        return None
    return sidecar


def _contents(path: Path) -> bytes | None:
    """An image file as the graph decodes it, and did; None for one that is damaged or cannot be read."""
    try:
        return image_files.read_image_bytes(path)
    except (image_files.ImageError, FileNotFoundError):
        return None


@contextlib.contextmanager
def _writer(temporary: Path, path: Path) -> Iterator[Callable[[bytes], None]]:
    """Writes records; what TensorFlow says of a full disk becomes an OSError."""
    try:
        with tf.io.TFRecordWriter(os.fsencode(temporary)) as writer:
            yield writer.write
    except tf.errors.OpError as error:
        raise OSError(f"{path} cannot be written: {error.message.rpartition('; ')[2]}") from error


def _written(sidecar: dict[str, Any], kept: bool) -> Written:
    return Written({key: sidecar[key] for key in ("file", "examples", "bytes", "sha256")}, sidecar["damaged"], kept)
