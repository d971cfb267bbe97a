"""A small folder of images to write shards of, the command in this process, and what is in the shards."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dvt_tf.shards import Shard, read_shard_set, records
from tests import images
from training.shard import main

KINDS = ("JPEG", "PNG", "WEBP")
IMAGES = 24  # of `train`


def make_data(path: Path) -> Path:
    """A folder of two classes, every kind of file in each: 24 images to train on and 6 of val."""
    for split, count in (("train", IMAGES // 6), ("val", 1)):
        for shift, name in enumerate(("cat", "dog")):
            folder = path / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                for kind in KINDS:
                    contents = images.file_bytes(images.picture(20 + number, 18 + shift), kind)
                    (folder / f"{number}.{kind.lower()}").write_bytes(contents)
            (folder / "notes.txt").write_text("no image")
    return path


def write(data: Path | str, out: Path, *flags: str) -> int:
    """The command in this process, with shards of some five images."""
    spec = f"folder:{data}" if isinstance(data, Path) else data
    return main(["--data", spec, "--out", str(out), "--workers", "1", "--shard-mb", "0.005", *flags])


def check(out: Path) -> int:
    return main(["--out", str(out), "--check", "--workers", "1"])


def examples(out: Path, split: str = "train") -> dict[str, tuple[bytes, int]]:
    """Contents and label of each name; no name comes twice."""
    found = list(records([part.path for part in read_shard_set(out).splits[split]]).as_numpy_iterator())
    by_name = {os.fsdecode(name): (contents, int(label)) for contents, label, name in found}
    assert len(by_name) == len(found)
    return by_name


def shards_of(out: Path, split: str = "train") -> tuple[Shard, ...]:
    return read_shard_set(out).splits[split]


def state(out: Path) -> dict[str, tuple[int, bytes]]:
    """When every shard was written, and what is in it."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.glob("*.tfrecord")}


def files_in(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The error of the command: one line, and nothing else."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("training.shard: ")
    assert captured.err.count("\n") == 1
    return captured.err.strip()
