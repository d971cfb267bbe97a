"""Shards as they are read: examples in a fixed order, wherever in tf.data, and a folder that is whole or refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from dvt_tf.shards import (
    MANIFEST_FILE,
    Shard,
    checksum,
    names_in,
    read_shard_set,
    records,
    shard_name,
    sidecar_path,
    to_record,
)

pytestmark = pytest.mark.one_stack

ODD_NAME = os.fsdecode(b"a b/caf\xc3\xa9 \xff.png")  # a space, an accent, and a byte that is no text


def write_shard_set(root: Path, counts: tuple[int, ...] = (3, 2, 4)) -> Path:
    """Shards of `train` with so many records each, whose contents are their numbers, and a manifest."""
    root.mkdir()
    entries = []
    number = 0
    for index, count in enumerate(counts):
        path = root / shard_name("train", index, len(counts))
        names = [ODD_NAME if number + at == 0 else f"b/{number + at}.png" for at in range(count)]
        labels = [(number + at) % 2 for at in range(count)]
        with tf.io.TFRecordWriter(str(path)) as writer:
            for at, (name, label) in enumerate(zip(names, labels, strict=True)):
                writer.write(to_record(b"%d" % (number + at), label, name))
        number += count
        entry = {
            "file": path.name,
            "examples": count,
            "bytes": path.stat().st_size,
            "sha256": checksum(path),
        }
        entries.append(entry)
        sidecar_path(path).write_text(json.dumps({**entry, "names": names, "labels": labels, "damaged": []}))
    write_manifest(root, splits={"train": {"shards": entries, "examples": number, "damaged": []}})
    return root


def write_manifest(root: Path, **changed: Any) -> None:
    path = root / MANIFEST_FILE
    manifest = {"format_version": 1, "source": "folder:/data", "class_names": ["a b", "b"]}
    if path.is_file():
        manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, **changed}))


def shard_paths(root: Path) -> list[str]:
    return [str(shard.path) for shard in read_shard_set(root).splits["train"]]


def contents(dataset: tf.data.Dataset) -> list[int]:
    return [int(contents) for contents, _, _ in dataset.as_numpy_iterator()]


def test_a_shard_set_says_what_is_in_it(tmp_path: Path) -> None:
    found = read_shard_set(write_shard_set(tmp_path / "shards"))
    assert found.root == tmp_path / "shards"
    assert found.class_names == ("a b", "b")
    assert [shard.examples for shard in found.splits["train"]] == [3, 2, 4]
    assert found == read_shard_set(str(tmp_path / "shards"))
    first = found.splits["train"][0]
    assert first.size == first.path.stat().st_size
    assert names_in(first) == [ODD_NAME, "b/1.png", "b/2.png"]


def test_records_have_contents_label_and_name(tmp_path: Path) -> None:
    paths = shard_paths(write_shard_set(tmp_path / "shards"))
    dataset = records(paths)
    assert [(spec.dtype, spec.shape.as_list()) for spec in dataset.element_spec] == [
        (tf.string, []),
        (tf.int32, []),
        (tf.string, []),
    ]
    first = next(iter(dataset.as_numpy_iterator()))
    assert (first[0], first[1], os.fsdecode(first[2])) == (b"0", 0, ODD_NAME)
    assert contents(dataset) == list(range(9))
    assert contents(records([])) == []


def test_files_read_at_the_same_time_take_turns_in_a_fixed_order(tmp_path: Path) -> None:
    paths = shard_paths(write_shard_set(tmp_path / "shards"))
    expected = [0, 3, 1, 4, 2, 5, 6, 7, 8]  # two files at a time; the third when one of them is at its end
    for _ in range(3):
        assert contents(records(paths, parallel=2)) == expected
    assert contents(records(tf.constant(paths[::-1]), parallel=1)) == [5, 6, 7, 8, 3, 4, 0, 1, 2]


@pytest.mark.parametrize("parallel", [1, 2])
def test_records_are_read_within_tf_data(tmp_path: Path, parallel: int) -> None:
    paths = tf.constant(shard_paths(write_shard_set(tmp_path / "shards")))

    def one_pass(number: tf.Tensor) -> tf.data.Dataset:
        return records(tf.roll(paths, -number, axis=0)[:2], parallel)

    passes = tf.data.Dataset.range(2, output_type=tf.int32).flat_map(one_pass)
    assert contents(passes) == contents(records(paths[:2], parallel)) + contents(records(paths[1:], parallel))


def test_a_folder_without_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder.*`python -m training\.shard` writes them"):
        read_shard_set(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no shards\.json in it; `python -m training\.shard`"):
        read_shard_set(tmp_path)


def test_shards_whose_writing_was_not_finished_are_refused(tmp_path: Path) -> None:
    root = write_shard_set(tmp_path / "shards")
    (root / MANIFEST_FILE).unlink()
    with pytest.raises(FileNotFoundError, match="not finished"):
        read_shard_set(root)


def test_a_truncated_or_missing_shard_is_refused_by_name(tmp_path: Path) -> None:
    root = write_shard_set(tmp_path / "shards")
    path = root / "train-00001-of-00003.tfrecord"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"00001-of-00003\.tfrecord has \d+ bytes.*python -m training\.shard --data"):
        read_shard_set(root)
    path.unlink()
    with pytest.raises(ValueError, match=r"train-00001-of-00003\.tfrecord is missing; run `python -m training\.shard"):
        read_shard_set(root)


@pytest.mark.parametrize(
    "changed",
    [
        {"splits": {}},
        {"splits": {"train": {"shards": [], "examples": 0, "damaged": []}}},
        {"splits": {"train": {"shards": [{"file": "../../etc/passwd"}], "examples": 0, "damaged": []}}},
        {"splits": {"val": {"shards": "many"}}},
        {"class_names": None},
        {"class_names": [1, 2]},
        {"format_version": "one"},
        {"source": 3},
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    root = write_shard_set(tmp_path / "shards")
    write_manifest(root, **changed)
    with pytest.raises(ValueError, match=r"shards\.json is damaged"):
        read_shard_set(root)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe\xfd", b"null"])
def test_a_manifest_that_is_no_json_object_is_refused(tmp_path: Path, text: bytes) -> None:
    root = write_shard_set(tmp_path / "shards")
    (root / MANIFEST_FILE).write_bytes(text)
    with pytest.raises(ValueError, match=r"shards\.json is damaged"):
        read_shard_set(root)


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    root = write_shard_set(tmp_path / "shards")
    write_manifest(root, format_version=2, splits="of another kind")
    with pytest.raises(ValueError, match="is of format version 2, and 1 is what can be read"):
        read_shard_set(root)


def test_names_come_from_the_file_beside_the_very_shard(tmp_path: Path) -> None:
    root = write_shard_set(tmp_path / "shards")
    first, second, third = read_shard_set(root).splits["train"]
    sidecar_path(first.path).write_text("{}")
    with pytest.raises(ValueError, match=r"train-00000-of-00003\.json is damaged"):
        names_in(first)
    sidecar_path(second.path).unlink()
    with pytest.raises(ValueError, match=r"train-00001-of-00003\.json, which .* is missing"):
        names_in(second)
    with pytest.raises(ValueError, match=r"train-00002-of-00003\.json is not of train-00002-of-00003\.tfrecord as"):
        names_in(Shard(third.path, third.examples, third.size, "0" * 64))


def test_a_damaged_record_is_an_error(tmp_path: Path) -> None:
    path = Path(shard_paths(write_shard_set(tmp_path / "shards"))[0])
    damaged = bytearray(path.read_bytes())
    damaged[20] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(tf.errors.DataLossError):
        contents(records([path]))


def test_checksums_are_those_of_sha256sum(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert checksum(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
