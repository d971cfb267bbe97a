"""Writing shards: nothing is changed, lost or done twice, whatever interrupts it, and what is damaged is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from dvt_tf import datasets, image_files
from dvt_tf.preprocessing import decode_image
from dvt_tf.shards import MANIFEST_FILE, Shard, names_in, read_manifest, read_shard_set, records, sidecar_path
from tests import images
from training import shard_work
from training.shard import main

pytestmark = pytest.mark.one_stack

KINDS = ("JPEG", "PNG", "WEBP")
IMAGES = 24  # of `train` in `data`
resource = pytest.importorskip("resource", reason="limits of a process are Unix's")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of two classes, every kind of file in each: 24 images to train on and 6 of val."""
    for split, count in (("train", IMAGES // 6), ("val", 1)):
        for shift, name in enumerate(("cat", "dog")):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                for kind in KINDS:
                    contents = images.file_bytes(images.picture(20 + number, 18 + shift), kind)
                    (folder / f"{number}.{kind.lower()}").write_bytes(contents)
            (folder / "notes.txt").write_text("no image")
    return tmp_path / "data"


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


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The error of the command: one line, and nothing else."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("training.shard: ")
    assert captured.err.count("\n") == 1
    return captured.err.strip()


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


def test_a_killed_run_goes_on_where_it_was(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert write(data, out) == 0
    before, manifest = state(out), (out / MANIFEST_FILE).read_bytes()
    (out / MANIFEST_FILE).unlink()
    lost = sorted(name for name in before if name.startswith("train"))[1]
    (out / lost).unlink()  # what is beside it is written first
    for name in (lost, lost.replace(".tfrecord", ".json"), MANIFEST_FILE):
        (out / f"{name}.writing").write_bytes(b"half")
    (out / "other.writing").write_bytes(b"somebody else's")
    with pytest.raises(FileNotFoundError, match="not finished"):
        read_shard_set(out)
    capsys.readouterr()
    assert write(data, out) == 0
    assert f"({len(before) - 1} of them there before)" in capsys.readouterr().out
    after = state(out)
    assert {name for name in before if after[name] != before[name]} == {lost}
    assert after[lost][1] == before[lost][1]
    assert (out / MANIFEST_FILE).read_bytes() == manifest
    assert [path.name for path in out.glob("*.writing")] == ["other.writing"]


def test_a_rerun_writes_again_what_changed(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert write(data, out) == 0
    before = state(out)
    path = data / "train" / "cat" / "0.png"
    path.write_bytes(path.read_bytes() + b"\0")  # another size
    changed = next(part for part in shards_of(out) if "cat/0.png" in names_in(part))
    assert write(data, out) == 0
    after = state(out)
    assert {name for name in before if after[name] != before[name]} == {changed.path.name}
    assert examples(out)["cat/0.png"][0] == path.read_bytes()


def test_an_image_that_can_be_read_again_is_taken_in(data: Path, tmp_path: Path) -> None:
    path = data / "train" / "cat" / "0.png"
    whole = path.read_bytes()
    path.write_bytes(bytes(len(whole)))
    assert write(data, tmp_path / "out", "--max-damaged", "0.1") == 0
    assert "cat/0.png" not in examples(tmp_path / "out")
    path.write_bytes(whole)
    assert write(data, tmp_path / "out") == 0
    assert examples(tmp_path / "out")["cat/0.png"][0] == whole
    assert read_manifest(tmp_path / "out")["splits"]["train"]["damaged"] == []


def test_a_truncated_shard_is_refused_and_written_again(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert write(data, out) == 0
    before = state(out)
    path = shards_of(out)[0].path
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match=path.name):
        read_shard_set(out)
    assert check(out) == 2
    assert write(data, out) == 0
    assert {name: contents for name, (_, contents) in state(out).items()} == {
        name: contents for name, (_, contents) in before.items()
    }


def test_a_flipped_bit_is_found_and_mended(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert write(data, out) == 0
    path = shards_of(out)[1].path
    whole = path.read_bytes()
    path.write_bytes(whole[:500] + bytes([whole[500] ^ 4]) + whole[501:])
    capsys.readouterr()
    assert check(out) == 2
    error = one_line(capsys)
    assert f"1 of {len(state(out))} shards are not right ({path.name}: " in error
    assert f"--data folder:{data} --out {out} --check` writes" in error
    assert write(data, out) == 0  # sizes are as they were
    assert path.read_bytes() != whole
    assert write(data, out, "--check") == 0
    assert path.read_bytes() == whole
    assert check(out) == 0


def test_check_looks_at_records_and_images(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert write(data, out) == 0
    first, second, *_ = shards_of(out)
    sidecar = sidecar_path(first.path)
    found = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps({**found, "labels": found["labels"][::-1], "names": found["names"][::-1]}))
    sidecar_path(second.path).unlink()
    capsys.readouterr()
    assert check(out) == 2
    error = one_line(capsys)
    assert f"{first.path.name}: its {first.examples} records are not those that" in error
    assert f"{second.path.name}: {sidecar_path(second.path)}, which lists" in error


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


def test_another_layout_in_the_way_is_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert write(data, out) == 0
    before, manifest = state(out), (out / MANIFEST_FILE).read_bytes()
    capsys.readouterr()
    assert write(data, out, "--shard-mb", "1") == 2
    assert "shards of another layout, such as train-00000-of-" in one_line(capsys)
    assert state(out) == before
    assert (out / MANIFEST_FILE).read_bytes() == manifest


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


def test_a_full_disk_is_one_line_and_leaves_no_half_file(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))  # no file may grow further: the nearest to a full disk
    try:
        status = write(data, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert status == 2
    assert "tfrecord cannot be written: File too large" in one_line(capsys)
    assert list(out.iterdir()) == []
    assert write(data, out) == 0
    assert check(out) == 0


def test_an_interrupt_leaves_what_is_finished(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    read = shard_work._contents
    calls: list[Path] = []

    def read_until_interrupted(path: Path) -> bytes | None:
        calls.append(path)
        if len(calls) == IMAGES - 1:
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(shard_work, "_contents", read_until_interrupted)
    assert write(data, out) == 130
    assert "interrupted; the same command goes on" in one_line(capsys)
    assert state(out)
    assert not list(out.glob("*.writing"))
    assert not (out / MANIFEST_FILE).exists()


def files_in(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.long
def test_two_workers_write_what_one_writes(data: Path, tmp_path: Path) -> None:
    assert write(data, tmp_path / "one") == 0
    assert write(data, tmp_path / "two", "--workers", "2") == 0
    assert files_in(tmp_path / "one") == files_in(tmp_path / "two")


@pytest.mark.slow
def test_the_command_can_be_interrupted(data: Path, tmp_path: Path) -> None:
    """As from a shell, where Ctrl-C goes to all the processes of the command, and they begin as they do there."""
    assert write(data, tmp_path / "one") == 0
    out = tmp_path / "two"
    command = [sys.executable, "-m", "training.shard", "--data", f"folder:{data}", "--out", str(out)]
    command += ["--shard-mb", "0.005", "--workers", "2"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not list(out.glob("*.tfrecord")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode in (0, 130), errors  # on a quick machine it was done before
    assert "Traceback" not in errors
    assert not list(out.glob("*.writing"))
    if process.returncode == 130:
        assert "interrupted; the same command goes on" in errors
        again = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert again.returncode == 0, again.stderr
        output = again.stdout
    assert "30 images (train 24, val 6)" in output
    assert files_in(tmp_path / "one") == files_in(out)
