"""Writing shards: nothing is changed or lost, what is damaged is told, and bad input is one line."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from dvt_tf import datasets, image_files
from dvt_tf.preprocessing import decode_image
from dvt_tf.shards import MANIFEST_FILE, names_in, read_manifest, read_shard_set, records, sidecar_path
from tests import images
from tests.training.shard_files import IMAGES, check, examples, files_in, make_data, one_line, shards_of, write
from training.shard import main

pytestmark = pytest.mark.one_stack


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data")


def test_every_image_is_in_the_shards_unchanged(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "shards"
    assert write(data, out) == 0
    captured = capsys.readouterr()
    count = len(list(out.glob("*.tfrecord")))
    assert f"30 images (train 24, val 6) in {count} shards, " in captured.out
    assert captured.out.endswith(" MB, 0 damaged left out\n")
    assert captured.err == ""
    shard_set = read_shard_set(out)
    assert shard_set.class_names == ("cat", "dog")
    assert len(shard_set.splits["train"]) > 2
    for split in ("train", "val"):
        found = examples(out, split)
        files = {f"{path.parent.name}/{path.name}": path for path in (data / split).glob("*/*.*[gp]")}
        assert sorted(found) == sorted(files)
        for name, path in files.items():
            contents, label = found[name]
            assert label == ("cat", "dog").index(path.parent.name)
            if path.suffix != ".webp":
                assert contents == path.read_bytes()
            else:
                assert contents == image_files.read_image_bytes(path)
                pixels, readable = decode_image(tf.constant(contents))
                assert readable
                np.testing.assert_array_equal(pixels, np.asarray(images.Image.open(path)))
    assert check(out) == 0
    assert "all of it is right" in capsys.readouterr().out


def test_what_is_beside_a_shard_and_the_manifest_agree(data: Path, tmp_path: Path) -> None:
    assert write(data, tmp_path / "out") == 0
    manifest = read_manifest(tmp_path / "out")
    assert manifest["source"] == f"folder:{data}"
    assert manifest["splits"]["train"]["examples"] == IMAGES
    for part in shards_of(tmp_path / "out"):
        found = [(os.fsdecode(name), int(label)) for _, label, name in records([part.path]).as_numpy_iterator()]
        sidecar = json.loads(sidecar_path(part.path).read_text())
        assert found == list(zip(sidecar["names"], sidecar["labels"], strict=True))
        assert names_in(part) == sidecar["names"]
        assert sidecar["bytes"] == part.path.stat().st_size


def test_shards_are_mixtures_and_the_same_every_time(data: Path, tmp_path: Path) -> None:
    assert write(data, tmp_path / "one") == 0
    assert write(data, tmp_path / "two") == 0
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).glob("train-*")} for name in ("one", "two"))
    assert one == two
    for part in shards_of(tmp_path / "one"):
        names = names_in(part)
        assert {name.partition("/")[0] for name in names} == {"cat", "dog"}
        assert names != sorted(names)


def test_shards_give_what_the_folder_gives(data: Path, tmp_path: Path) -> None:
    assert write(data, tmp_path / "out") == 0
    for split in datasets.SPLITS:
        found = []
        for spec in (f"folder:{data}", f"shards:{tmp_path / 'out'}"):
            try:
                batches = list(datasets.file_batches(spec, split, 5).as_numpy_iterator())
            except ValueError:  # the folder's own word for a share of val that is empty
                batches = []
            found.append(sorted((file, label) for files, _, labels in batches for file, label in zip(files, labels)))
        assert found[0] == found[1]
        assert found[0] or split != "train"


def test_splits_are_written_together_or_one_after_the_other(data: Path, tmp_path: Path) -> None:
    (data / "val").rename(data / "test")
    assert write(data, tmp_path / "all") == 0
    assert list(read_manifest(tmp_path / "all")["splits"]) == ["train", "test"]
    assert write(f"folder:{data}@test", tmp_path / "parts") == 0
    assert list(read_manifest(tmp_path / "parts")["splits"]) == ["test"]
    assert write(f"folder:{data}@train", tmp_path / "parts") == 0
    assert read_manifest(tmp_path / "parts") == read_manifest(tmp_path / "all")


def test_damaged_images_are_left_out_and_listed(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (data / "train" / "cat" / "0.jpeg").read_bytes()
    (data / "train" / "cat" / "0.jpeg").write_bytes(whole[: len(whole) // 2])
    (data / "train" / "dog" / "1.png").write_bytes(b"")
    out = tmp_path / "out"
    assert write(data, out, "--max-damaged", "0.09") == 0
    assert capsys.readouterr().out.endswith(", 2 damaged left out\n")
    damaged = ["cat/0.jpeg", "dog/1.png"]
    assert read_manifest(out)["splits"]["train"]["damaged"] == damaged
    assert (
        sorted(name for path in out.glob("train*.json") for name in json.loads(path.read_text())["damaged"]) == damaged
    )
    assert len(examples(out)) == IMAGES - 2
    assert not set(damaged) & set(examples(out))
    assert check(out) == 0
    capsys.readouterr()
    assert write(data, out, "--max-damaged", "0.05") == 2
    assert "train: 2 of 24 images are damaged" in one_line(capsys)


def test_too_many_damaged_images_end_it(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (data / "train").glob("*/*.*[gp]"):
        path.write_bytes(b"no image")
    out = tmp_path / "out"
    assert write(data, out, "--max-damaged", "0.5", "--shard-mb", "1") == 2
    error = one_line(capsys)
    assert "train: 24 of 24 images are damaged or unreadable, more than --max-damaged 0.5 allows: cat/0.jpeg, " in error
    assert error.count("cat/") == 10
    assert error.endswith(", ...")
    assert not (out / MANIFEST_FILE).exists()
    assert len(list(out.glob("train*.tfrecord"))) == 1  # what was finished is kept
    assert write(data, out, "--max-damaged", "1", "--shard-mb", "1") == 2
    assert "not one of its 24 images can be read" in one_line(capsys)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names of files are text")
def test_odd_names_survive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["plain.png", " two  spaces .png", "café.png", os.fsdecode(b"byte\xff.png"), "line\nbreak.png"]
    folder = tmp_path / "data" / "train" / os.fsdecode(b"na\xc3\xafve class\xfe")
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_bytes(images.file_bytes(images.picture(), "PNG"))
    out = tmp_path / os.fsdecode(b"out \xff")
    assert write(tmp_path / "data", out) == 0
    assert read_shard_set(out).class_names == (folder.name,)
    assert sorted(examples(out)) == sorted(f"{folder.name}/{name}" for name in names)
    assert sorted(name for part in shards_of(out) for name in names_in(part)) == sorted(examples(out))
    assert check(out) == 0
    for name in names:
        (folder / name).write_bytes(b"damaged")
    capsys.readouterr()
    assert write(tmp_path / "data", tmp_path / "other") == 2
    one_line(capsys)


def test_other_classes_beside_what_is_there_are_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert write(f"folder:{data}@val", tmp_path / "out") == 0
    (data / "train" / "eel").mkdir()
    capsys.readouterr()
    assert write(f"folder:{data}@train", tmp_path / "out") == 2
    assert "holds val of data with other classes" in one_line(capsys)
    assert write(data, tmp_path / "new") == 2
    assert "train and val differ in class folders: eel" in one_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --data folder:PATH to write shards, or --check"),
        (["--data", "digits"], "--data is digits; shards are written of folder:PATH"),
        (["--data", "tfds:cifar10@train"], "--data is tfds:cifar10@train; shards are written of folder:PATH"),
        (["--data", "pictures"], "unknown data 'pictures'"),
        (["--data", "folder:{data}/none"], "none: no such folder"),
        (["--data", "folder:{data}/train"], "none of the folders train, val, calibration, test is in it"),
        (["--data", "folder:{data}@test"], "data/test: no such folder"),
        (["--data", "folder:{data}/empty"], "train: no class folder in it"),
        (["--data", "folder:{data}/bare"], "train: no image in any class folder of it"),
        (["--data", "folder:{data}", "--shard-mb", "0"], "--shard-mb is 0; it must be above 0"),
        (["--data", "folder:{data}", "--shard-mb", "nan"], "--shard-mb is nan; it must be above 0"),
        (["--data", "folder:{data}", "--workers", "0"], "--workers is 0; it must be at least 1"),
        (["--data", "folder:{data}", "--max-damaged", "2"], "--max-damaged is 2; it must be from 0 to 1"),
        (["--check"], "out: no such folder of shards"),
        (["--data", "folder:{data}", "--out", "{data}/train/cat/0.png"], "0.png"),
    ],
)
def test_wrong_input_is_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (data / "empty" / "train").mkdir(parents=True)
    (data / "bare" / "train" / "cat").mkdir(parents=True)
    given = [argument.format(data=data) for argument in arguments]
    assert main(["--out", str(tmp_path / "out"), *given]) == 2
    assert message in one_line(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_two_workers_write_what_one_writes(data: Path, tmp_path: Path) -> None:
    assert write(data, tmp_path / "one") == 0
    assert write(data, tmp_path / "two", "--workers", "2") == 0
    assert files_in(tmp_path / "one") == files_in(tmp_path / "two")
