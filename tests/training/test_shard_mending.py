"""Shards that were interrupted, damaged or outdated: a rerun finds them, writes them again, and does nothing twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dvt_tf.shards import MANIFEST_FILE, names_in, read_manifest, read_shard_set, sidecar_path
from tests.training.shard_files import IMAGES, check, examples, files_in, make_data, one_line, shards_of, state, write
from training import shard_work

pytestmark = pytest.mark.one_stack

resource = pytest.importorskip("resource", reason="limits of a process are Unix's")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data")


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


def test_another_layout_in_the_way_is_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert write(data, out) == 0
    before, manifest = state(out), (out / MANIFEST_FILE).read_bytes()
    capsys.readouterr()
    assert write(data, out, "--shard-mb", "1") == 2
    assert "shards of another layout, such as train-00000-of-" in one_line(capsys)
    assert state(out) == before
    assert (out / MANIFEST_FILE).read_bytes() == manifest


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
