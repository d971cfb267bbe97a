"""The benchmarks of the folded form as commands: their tables come out, whatever the times are."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import early_exit, inference, memory
from benchmarks.inference import up_to_exit
from dvt_tf.serving import export
from tests.cascades import random_images, small_cascade


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A small model."""
    small_cascade().save_to_preset(tmp_path / "model")
    return str(tmp_path / "model")


def table(path: Path) -> list[list[str]]:
    """The rows of a CSV file."""
    return list(csv.reader(path.read_text().splitlines()))


@pytest.mark.parametrize("form", ["layers", "float32"])
def test_what_is_timed_is_the_exit(form: str) -> None:
    model = small_cascade()
    images = random_images(3)
    for k in range(3):
        run = up_to_exit(model if form == "layers" else model.optimized(form), k, tf.constant(images))
        np.testing.assert_allclose(run(), model(images)[f"exit_{k + 1}"], atol=2e-5)


def test_the_table_of_the_folded_form(folder: str, tmp_path: Path) -> None:
    inference.main(folder, batches=[1, 2], rounds=1, out=tmp_path / "out")
    rows = table(tmp_path / "out" / "inference_1.csv")
    assert [row[:2] for row in rows] == [["batch", "exit"], *([batch, k] for batch in "12" for k in "123")]
    assert all(float(row[2]) >= 0 and row[5].endswith("%)") for row in rows[1:])


def test_the_table_of_leaving_early(folder: str, tmp_path: Path) -> None:
    early_exit.main(folder, batches=[2], rounds=1, out=tmp_path / "out")
    rows = table(tmp_path / "out" / "early_exit_1.csv")
    assert [row[0] for row in rows] == ["batch", "GFLOPs", "2"]
    assert rows[1][3] == "1.00"
    assert rows[2][3] == "1.00 (1.00-1.00)"


def test_images_that_leave_elsewhere_are_no_measurement(tmp_path: Path) -> None:
    served = tf.saved_model.load(str(export(small_cascade(), tmp_path / "served"))).signatures["with_thresholds"]
    picture = tf.io.encode_jpeg(tf.zeros((28, 28, 3), tf.uint8)).numpy()
    assert early_exit._leaving_at(served, picture, 2, 1, exits=3)().numpy().tolist() == [2, 2]

    def wrong(image_bytes: tf.Tensor, thresholds: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"exit": tf.constant([1, 2])}

    with pytest.raises(RuntimeError, match=r"left at exits \[1, 2\] and not all at 2"):
        early_exit._leaving_at(wrong, picture, 2, 1, exits=3)


def test_peak_memory_is_of_this_process_and_in_bytes(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    held = np.ones(50_000_000, np.uint8)
    memory.main(folder, batch=2, form="float32")
    peak = float(capsys.readouterr().out.rpartition(":")[2])
    assert held.nbytes < peak < 1e12


def test_each_form_has_a_process_of_its_own(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "FORMS", ("bfloat16",))
    memory.main(folder, batch=2, out=tmp_path / "out")
    rows = table(tmp_path / "out" / "memory_1.csv")
    assert [row[0] for row in rows] == ["form", "no model", "bfloat16"]
    assert 0.1 < float(rows[2][1]) < 50
